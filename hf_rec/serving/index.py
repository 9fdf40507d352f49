"""An index of item vectors: the best items for a user vector, by exact or by approximate search."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from safetensors.numpy import load_file, save_file

from ..data.folders import check_new, filling
from ..model.cpu import score_items
from ..model.item_columns import Texts
from ..model.pipeline_bert4rec import RecommendationPipeline, check_count
from ..model.ranking import top_items
from .vectors import item_biases, item_vectors

FILE, ITEMS, FAISS = "index.json", "items.safetensors", "index.faiss"
BLOCK = 2**26  # scores that an exact search holds at once
LEAST_PER_LIST = 64  # items of an inverted list on average

# By kind: a description for `faiss.index_factory` and the parameters of its search.
KINDS = {
    "hnsw": ("HNSW32", "efSearch=256"),
    "ivf": ("IVF{lists},Flat", "nprobe={probes}"),
    "int8": ("SQ8", ""),
    "pq": ("PQ{parts}np", ""),  # without the training for polysemous codes, which takes minutes
}


class ItemIndex:
    """Items that are found by the vectors of users: those with the largest product of the two plus the item's bias.

    The repeat bias depends on the history, so it is in no index; [`IndexedRecommendationPipeline`] adds it to what was
    retrieved.

    Attributes:
        items: The ids of the items.
        engine: [`ExactSearch`] or [`FaissSearch`].

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> index = ItemIndex.build(["a", "b", "c"], vectors, biases=torch.tensor([0.0, 3.0, 0.0]))
        >>> index.search(torch.tensor([[2.0, 1.0]]), top_k=2)
        ([['b', 'c']], tensor([[4., 3.]]))
    """

    def __init__(self, items: Texts, engine: "ExactSearch | FaissSearch"):
        self.items = items
        self.engine = engine

    @classmethod
    def build(
        cls,
        item_ids: Sequence[str],
        vectors: torch.Tensor,
        biases: torch.Tensor | None = None,
        kind: str = "exact",
        search: str | None = None,
    ) -> "ItemIndex":
        """An index of items.

        Args:
            vectors: (items, width).
            biases: (items,) terms of the scores; 0 if None.
            kind: "exact"; of faiss "hnsw" (a graph), "ivf" (inverted lists), "int8" (a scalar quantiser) or "pq" (a
                product quantiser); or any description for `faiss.index_factory`, such as "IVF1024,SQ8".
            search: Parameters of a search by faiss, such as "efSearch=64" or "nprobe=16"; by default those of the
                kind. Larger ones find more and take longer.

        Raises:
            ValueError: for numbers of ids, vectors and biases that differ, or an unknown kind.
            ImportError: for a kind of faiss without `pip install 'hf_rec[index]'`.
        """
        biases = torch.zeros(len(vectors)) if biases is None else biases
        if vectors.dim() != 2 or not len(item_ids) == len(vectors) == len(biases) > 0:
            raise ValueError(
                f"an index needs a vector and a bias for each item, got {len(item_ids)} item_ids, vectors of shape "
                f"{tuple(vectors.shape)} and {len(biases)} biases"
            )
        vectors, biases = vectors.float().cpu().contiguous(), biases.float().cpu()
        engine = ExactSearch(vectors, biases) if kind == "exact" else FaissSearch.build(vectors, biases, kind, search)
        return cls(Texts.of(item_ids), engine)

    @classmethod
    def of(cls, recommend: RecommendationPipeline, kind: str = "exact", search: str | None = None) -> "ItemIndex":
        """An index of the items that a model may recommend; see [`build`]."""
        return cls.build(*item_vectors(recommend), item_biases(recommend), kind, search)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items.offsets) - 1

    def search(self, users: torch.Tensor, top_k: int = 10) -> tuple[list[list[str]], torch.Tensor]:
        """The best items of each user, best first.

        Args:
            users: (users, width) vectors of [`encode`].

        Returns:
            A list of ids for each user, and (users, top_k) scores. Approximate search may find fewer items than
            `top_k`: such a list is shorter, and its last scores are -inf. Scores of faiss are not exact.
        """
        rows, scores = self.search_rows(users, top_k)
        return [[self.items[row] for row in found if row >= 0] for found in rows.tolist()], scores

    def search_rows(self, users: torch.Tensor, top_k: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`search`], with (users, top_k) rows in place of ids, -1 where nothing was found."""
        if users.dim() != 2 or users.shape[1] != self.engine.width:
            raise ValueError(f"the index needs (users, {self.engine.width}) vectors, got {tuple(users.shape)}")
        return self.engine.search(users.float().cpu(), min(check_count(top_k, "top_k"), len(self)))

    def recall(self, exact: "ItemIndex", users: torch.Tensor, top_k: int = 10) -> float:
        """The mean share of the `top_k` items of an exact index that this one finds.

        Args:
            exact: An exact index of the same items.
            users: (users, width) vectors.
        """
        found, best = (index.search_rows(users, top_k)[0] for index in (self, exact))
        return (best.unsqueeze(2) == found.unsqueeze(1)).any(2).float().mean().item()

    def save(self, folder: str | Path) -> None:
        """Write the index to a new or empty folder: `index.json`, `items.safetensors` and, of faiss, `index.faiss`."""
        with filling(check_new(folder), last=FILE) as staging:
            tensors, description = self.engine.save(staging)
            tensors |= {"bytes": self.items.bytes, "offsets": self.items.offsets}
            save_file(tensors, staging / ITEMS)
            (staging / FILE).write_text(json.dumps(description), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "ItemIndex":
        """Read what [`save`] wrote.

        Raises:
            FileNotFoundError: for a folder without an index.
            ValueError: for files that do not belong together.
        """
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no index: it has no {FILE}")
        description = json.loads((folder / FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / ITEMS)
        kind = FaissSearch if description["engine"] == "faiss" else ExactSearch
        index = cls(Texts(tensors["bytes"], tensors["offsets"]), kind.load(folder, tensors, description))
        if len(index.engine) != len(index):
            raise ValueError(f"{folder} has {len(index.engine)} vectors for {len(index)} items: it is damaged")
        return index


class ExactSearch:
    """Scores all items.

    Args:
        vectors: (items, width).
        biases: (items,).
    """

    def __init__(self, vectors: torch.Tensor, biases: torch.Tensor):
        self.vectors = vectors
        self.biases = biases
        self.width = vectors.shape[1]

    def __len__(self) -> int:
        return len(self.vectors)

    @torch.inference_mode()
    def search(self, users: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(users, top_k) rows and scores of the best items."""
        parts = users.split(max(BLOCK // len(self), 1))
        found = [top_items(score_items(part, self.vectors, self.biases), top_k) for part in parts]
        return tuple(torch.cat(column) for column in zip(*found, strict=True))

    def save(self, folder: Path) -> tuple[dict, dict]:  # noqa: ARG002
        """The tensors and the description to write."""
        return {"vectors": self.vectors.numpy(), "biases": self.biases.numpy()}, {"engine": "exact"}

    @classmethod
    def load(cls, folder: Path, tensors: dict, description: dict) -> "ExactSearch":  # noqa: ARG003
        return cls(torch.from_numpy(tensors["vectors"]), torch.from_numpy(tensors["biases"]))


class FaissSearch:
    """Searches with faiss for the nearest items by Euclidean distance.

    The bias of an item is another dimension of its vector, where a user has 1. One more dimension gives all items the
    same length, so that the nearest are those with the largest product
    ([Bachrach et al., 2014](https://dl.acm.org/doi/10.1145/2645710.2645741)): graphs and inverted lists that search by
    the product itself miss most items. Zeros fill the width up to a multiple of four.

    Args:
        index: Of faiss.
        width: Of the vectors of users.
        length: Of all items.
    """

    def __init__(self, index, width: int, length: float):
        self.index = index
        self.width = width
        self.length = length

    def __len__(self) -> int:
        return self.index.ntotal

    @classmethod
    def build(cls, vectors: torch.Tensor, biases: torch.Tensor, kind: str, search: str | None) -> "FaissSearch":
        """An index of (items, width) vectors and (items,) biases; `kind` and `search` as for [`ItemIndex.build`]."""
        faiss = import_faiss()
        squares = vectors.square().sum(1) + biases.square()
        length = squares.max().sqrt().item()
        same = torch.cat([vectors, biases[:, None], (length**2 - squares).clamp(min=0).sqrt()[:, None]], dim=1)
        same = torch.nn.functional.pad(same, (0, -same.shape[1] % 4)).numpy()
        description, parameters = KINDS.get(kind, (kind, ""))
        lists = max(min(int(len(same) ** 0.5), len(same) // LEAST_PER_LIST), 1)
        numbers = {"lists": lists, "probes": max(lists // 4, 1), "parts": same.shape[1] // 4}
        try:
            index = faiss.index_factory(same.shape[1], description.format(**numbers))
        except RuntimeError as error:
            raise ValueError(
                f"the kind of an index is 'exact', one of {[*KINDS]} or a description for faiss.index_factory, got "
                f"{kind!r}"
            ) from error
        index.train(same)
        index.add(same)
        if parameters := parameters.format(**numbers) if search is None else search:
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        return cls(index, vectors.shape[1], length)

    def search(self, users: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(users, top_k) rows and scores of the items that are found, -1 and -inf where there are no more."""
        queries = torch.nn.functional.pad(users, (0, self.index.d - self.width))
        queries[:, self.width] = 1
        distances, rows = map(torch.from_numpy, self.index.search(queries.numpy(), top_k))
        scores = (queries.square().sum(1, keepdim=True) + self.length**2 - distances) / 2
        return rows, scores.masked_fill(rows < 0, -torch.inf)

    def save(self, folder: Path) -> tuple[dict, dict]:
        """Write the index of faiss; return the tensors and the description to write beside it."""
        import_faiss().write_index(self.index, str(folder / FAISS))
        return {}, {"engine": "faiss", "width": self.width, "length": self.length}

    @classmethod
    def load(cls, folder: Path, tensors: dict, description: dict) -> "FaissSearch":  # noqa: ARG003
        index = import_faiss().read_index(str(folder / FAISS))
        return cls(index, description["width"], description["length"])


def import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError("approximate search needs faiss: pip install 'hf_rec[index]'") from error
    return faiss


def item_dataset(recommend: RecommendationPipeline) -> Dataset:
    """The items that may be recommended as a data set of `item_id` and `vector`, of which the last number is the bias.

    It is made for `add_faiss_index("vector", metric_type=faiss.METRIC_INNER_PRODUCT)` of `datasets`. A query is the
    vector of a user and a 1.
    """
    item_ids, vectors = item_vectors(recommend)
    vectors = torch.cat([vectors, item_biases(recommend)[:, None]], dim=1).numpy()
    features = Features({"item_id": Value("string"), "vector": List(Value("float32"), length=vectors.shape[1])})
    return Dataset.from_dict({"item_id": np.array(item_ids), "vector": vectors}, features=features)


__all__ = ["ItemIndex", "item_dataset"]
