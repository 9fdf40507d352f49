"""The item table: the one place that gives the vectors of items, to read histories and to score the catalogue."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .configuration_bert4rec import Bert4RecConfig
from .cpu import score_items, sum_rows, users_of_codes
from .features import encode

FEW_ROWS = 8  # `embedding_bag` is slow for narrower sums
WIDE = 4  # numbers of a sub-vector from which on scores are computed from the codes


class ItemTable(nn.Module):
    """A vector for each token id: that of the id and, where the model reads content, that of the item's content.

    In training the id of a share of the items is hidden, so that their content alone must do, which is all that a new
    item has (DropoutNet, [Volkovs et al., 2017](https://papers.nips.cc/paper/7081)). An untied model has one table to
    read items and another one to score them.

    Attributes:
        id_embeddings: The learned vectors of the ids: an embedding, or a [`CodedEmbedding`].
        content: The [`ItemContent`], or None.
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.id_embeddings = (
            CodedEmbedding(config)
            if config.item_codes
            else nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        )
        self.content = ItemContent(config) if config.item_features else None
        self.id_dropout_prob = config.id_dropout_prob
        self.padding_idx = config.pad_token_id
        self.folded = (None, None)

    @property
    def sparse_gradients(self) -> bool:
        """Whether [`forward`] gives sparse gradients, for an optimizer that updates only the rows of a step."""
        return self.id_embeddings.sparse

    @sparse_gradients.setter
    def sparse_gradients(self, sparse: bool) -> None:
        self.id_embeddings.sparse = sparse

    @property
    def is_coded(self) -> bool:
        """Whether the vectors of the ids are put together from codes."""
        return isinstance(self.id_embeddings, CodedEmbedding)

    @property
    def is_frozen(self) -> bool:
        """Whether nothing is learned now, so that the vectors may be computed once."""
        return not self.training and not torch.is_grad_enabled()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) vectors of (...) token ids."""
        if self.content is None:
            return self.id_embeddings(ids)
        if self.is_frozen:
            return nn.functional.embedding(ids, self.fold())
        return self.add_content(self.id_embeddings(ids), self.content(ids), self.content.known[ids])

    def all_items(self) -> torch.Tensor:
        """(vocab_size, hidden_size) vectors of all token ids."""
        if self.is_frozen and (self.content is not None or self.is_coded):
            return self.fold()
        weight = self.id_embeddings.weight
        return weight if self.content is None else self.add_content(weight, self.content(), self.content.known)

    def score(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """(..., vocab_size) scores of (..., hidden_size) states: the products with the vectors, plus the bias."""
        if self.is_frozen and self.is_coded and self.content is None and self.id_embeddings.scores_by_codes:
            return self.id_embeddings.score(states) + bias
        return score_items(states, self.all_items(), bias)

    def add_content(self, vectors: torch.Tensor, content: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The sum of the vectors of ids and of their content; in training without those of some ids whose content is
        known."""
        if not self.training or not self.id_dropout_prob:
            return vectors + content
        hidden = known & (torch.rand(known.shape, device=known.device) < self.id_dropout_prob)
        return torch.addcmul(content, vectors, (~hidden).unsqueeze(-1).to(vectors.dtype))

    def train(self, mode: bool = True):
        self.folded = (None, None)  # fused optimizers change weights without a trace
        return super().train(mode)

    def fold(self) -> torch.Tensor:
        """[`all_items`] for evaluation, computed once for the present weights."""
        if torch.compiler.is_compiling():
            return self.whole()
        tensors = [*self.parameters(), *self.buffers()]
        state = [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors]
        if self.folded[0] != state:
            self.folded = state, self.whole()
        return self.folded[1]

    def whole(self) -> torch.Tensor:
        """The sum of the vectors of all ids and of their content."""
        weight = self.id_embeddings.weight
        return weight if self.content is None else weight + self.content()

    def make_plain(self) -> None:
        """Make one embedding of the codes and the content."""
        whole = self.whole().detach()
        self.id_embeddings = nn.Embedding.from_pretrained(whole, freeze=False, padding_idx=self.padding_idx)
        self.content = None


class CodedEmbedding(nn.Module):
    """A table by product quantisation: the vector of a token is put together from sub-vectors that tokens share.

    A token has a code for each codebook; its vector is the concatenation of the rows that the codes name
    ([Jégou et al., 2011](https://doi.org/10.1109/TPAMI.2010.57); RecJPQ,
    [Petrov and Macdonald, 2024](https://arxiv.org/abs/2312.06165)). Training changes the codebooks, not the codes.

    Attributes:
        codebooks: (codes, 2**bits, hidden_size / codes).
        packed: (vocab_size, bytes) codes, as faiss packs them: those of 4 bits two in a byte, the first in its lower
            half.
    """

    sparse = False

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        count, self.bits = config.item_codes, config.item_code_bits
        self.codebooks = nn.Parameter(torch.empty(count, 2**self.bits, config.hidden_size // count))
        width = -(-count * self.bits // 8)
        self.register_buffer("packed", torch.zeros(config.vocab_size, width, dtype=torch.uint8))

    @property
    def weight(self) -> torch.Tensor:
        """(vocab_size, hidden_size) vectors of all tokens."""
        return self.vectors_of(self.packed)

    @property
    def scores_by_codes(self) -> bool:
        """Whether scores are computed faster from the codes than from the vectors."""
        return self.codebooks.shape[2] >= WIDE and not torch.compiler.is_compiling()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) vectors of (...) token ids."""
        return self.vectors_of(self.packed[ids])

    def vectors_of(self, packed: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) vectors of (..., bytes) packed codes."""
        return nn.functional.embedding(self.places(packed), self.codebooks.flatten(0, 1)).flatten(-2)

    def places(self, packed: torch.Tensor) -> torch.Tensor:
        """(..., codes) rows of the stacked codebooks that (..., bytes) packed codes name."""
        codes = packed.int()
        if self.bits == 4:
            codes = torch.stack([codes % 16, codes // 16], dim=-1).flatten(-2)
        count, size, _ = self.codebooks.shape
        return codes[..., :count] + size * torch.arange(count, dtype=torch.int32, device=codes.device)

    def score(self, states: torch.Tensor) -> torch.Tensor:
        """(..., vocab_size) products of (..., hidden_size) states with all vectors, which are never put together.

        Each sub-vector is multiplied once, and a token has the sum of what its codes name (PQTopK,
        [Petrov et al., 2024](https://arxiv.org/abs/2408.09992)).
        """
        parts = states.reshape(-1, *self.codebooks.shape[::2])  # (rows, codes, numbers of a sub-vector)
        parts = nn.functional.pad(parts, (0, 0, 0, 0, 0, max(FEW_ROWS - len(parts), 0))).to(self.codebooks.dtype)
        products = torch.einsum("rcn,cen->cer", parts, self.codebooks).flatten(0, 1).contiguous()
        scores = nn.functional.embedding_bag(self.places(self.packed), products, mode="sum")  # (vocab_size, rows)
        return scores.t()[: states.shape[:-1].numel()].reshape(*states.shape[:-1], -1)


class ItemContent(nn.Module):
    """What is known of the items beside their ids: categories, bags of them, numbers and vectors.

    The content itself is in buffers, so it is saved with the weights. A vector is centred and whitened first, and cut
    to its first principal components ([Zhang et al., 2024](https://arxiv.org/abs/2402.10602)).

    Attributes:
        codes: (vocab_size, columns) codes of the categories and numbers, 0 where they are unknown. Each feature has
            codes of its own.
        vectors: (vocab_size, components of all vectors), 0 where they are unknown.
        known: (vocab_size,) whether anything is known of an item.
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.features = config.item_features
        self.coded = [feature for feature in self.features if feature.code_columns]
        dense = [feature for feature in self.features if not feature.code_columns]
        columns, components = (sum(f.code_columns for f in self.coded), sum(f.components for f in dense))
        self.register_buffer("codes", torch.zeros(config.vocab_size, columns, dtype=torch.int32))
        self.register_buffer("vectors", torch.zeros(config.vocab_size, components))
        self.register_buffer("known", torch.zeros(config.vocab_size, dtype=torch.bool))
        sizes = [feature.size - 1 for feature in self.coded]
        self.embeddings = nn.Embedding(1 + sum(sizes), config.hidden_size, padding_idx=0) if columns else None
        self.projection = nn.Linear(components, config.hidden_size, bias=False) if components else None
        self.of_all = (None, ())
        self.whitenings = nn.ModuleList(Whitening(feature.width, feature.components) for feature in dense)

    def forward(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """(..., hidden_size) vectors of the content of (...) token ids; of all of them if None."""
        if ids is not None and ids.numel() >= len(self.known):
            return nn.functional.embedding(ids, self())
        if ids is None:
            return self.vectors_of(self.codes, self.vectors, *self.shares_of_all())
        codes, vectors = self.codes[ids.flatten()], self.vectors[ids.flatten()]
        return self.vectors_of(codes, vectors, self.shares(codes)).view(*ids.shape, -1)

    def vectors_of(self, codes: torch.Tensor, vectors: torch.Tensor, shares, users=None) -> torch.Tensor:
        """(items, hidden_size) sums of what (items, ...) codes and vectors give."""
        if self.embeddings is None:
            return self.projection(vectors)
        total = sum_rows(self.embeddings.weight, codes, shares, users)
        return total if self.projection is None else torch.addmm(total, vectors, self.projection.weight.t())

    def shares_of_all(self) -> tuple:
        """The shares of all codes, and what [`users_of_codes`] gives of them, computed once for the present codes."""
        if self.embeddings is None or torch.compiler.is_compiling():
            return (self.shares(self.codes),)
        weight, inference = self.embeddings.weight, torch.is_inference_mode_enabled()
        state = (self.codes.data_ptr(), self.codes._version, weight.dtype, inference)
        if self.of_all[0] != state:
            shares = self.shares(self.codes)
            self.of_all = state, (shares, users_of_codes(self.codes, shares, len(weight)))
        return self.of_all[1]

    @torch.no_grad()
    def store(self, ids: torch.Tensor, values: Mapping[str, Sequence], fit: bool = False) -> None:
        """Encode and keep the content of some items.

        Args:
            ids: (items,) token ids.
            values: For each feature the (items,) raw values, None where they are missing.
            fit: Whether these items decide on how vectors are whitened.
        """
        codes, vectors = [], []
        offset, whitenings = 0, iter(self.whitenings)
        for feature in self.features:
            encoded = torch.from_numpy(encode(feature, values[feature.name])).to(self.known.device)
            if feature.code_columns:
                encoded = encoded.view(len(ids), -1)
                codes.append(torch.where(encoded > 0, encoded + offset, 0))
                offset += feature.size - 1
                continue
            whiten, present = next(whitenings), encoded.isfinite().all(-1)
            if fit and present.any():
                whiten.fit(encoded[present])
            vectors.append(whiten(encoded.nan_to_num()).masked_fill(~present.unsqueeze(-1), 0.0))
        if codes:
            self.codes[ids] = torch.cat(codes, dim=1).to(self.codes.dtype)
        if vectors:
            self.vectors[ids] = torch.cat(vectors, dim=1).to(self.vectors.dtype)
        self.known[ids] = (self.codes[ids] > 0).any(-1) | (self.vectors[ids] != 0).any(-1)

    def resize(self, vocab_size: int) -> None:
        """Room for another number of tokens; nothing is known of new ones."""
        for name in ("codes", "vectors", "known"):
            old = getattr(self, name)
            new = old.new_zeros(vocab_size, *old.shape[1:])
            new[: len(old)] = old[:vocab_size]
            setattr(self, name, new)

    def shares(self, codes: torch.Tensor) -> torch.Tensor | None:
        """(rows, columns) weights of (rows, columns) codes: a bag counts as much as one category."""
        if self.embeddings is None:
            return None
        weights = torch.ones_like(codes, dtype=self.embeddings.weight.dtype)
        column = 0
        for feature in self.coded:
            part = slice(column, column + feature.code_columns)
            column = part.stop
            if feature.code_columns > 1:
                weights[:, part] /= (codes[:, part] > 0).sum(-1, keepdim=True).clamp(min=1)
        return weights


class Whitening(nn.Module):
    """A linear map after which the dimensions of a vector are centred, uncorrelated and of variance 1."""

    def __init__(self, width: int, components: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.zeros(width, components))

    def fit(self, vectors: torch.Tensor) -> None:
        """Learn the map from (items, width) vectors."""
        vectors = vectors.double()
        self.mean.copy_(vectors.mean(0))
        _, scales, directions = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
        scales = scales / max(len(vectors) - 1, 1) ** 0.5
        used = min(self.matrix.shape[1], int((scales > 1e-4 * scales.max()).sum()))
        self.matrix.zero_()
        self.matrix[:, :used].copy_(directions[:used].t() / scales[:used])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(items, components) of (items, width) vectors."""
        return (vectors.to(self.mean.dtype) - self.mean) @ self.matrix


__all__ = ["CodedEmbedding", "ItemContent", "ItemTable", "Whitening"]
