"""How high new items are placed: as high as the accuracy for known items allows."""

import copy

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from ..data.columns import as_array
from ..evaluation.evaluate import choose_eval_batch_size
from ..evaluation.metrics import ndcg
from ..model.inputs import build_request
from .growth import start_vectors

OFFSETS = np.array([-np.inf, *np.arange(0, 3.001, 0.125)])  # the first one leaves new items out
SHARE = 0.1  # of the training items that stand in for new ones


def choose_new_item_offset(model: PreTrainedModel, tokenized: DatasetDict, most_loss: float = 0.05) -> float:
    """The largest offset of the scores of new items with which known items lose little accuracy in validation.

    A tenth of the training items, chosen at random, stand in for new ones: a copy of the model has the vectors there
    with which [`add_items`] starts. The offset is the largest of `OFFSETS`, but at least 0, before the NDCG@10 of the
    other targets is more than `most_loss` below that without new items.

    Args:
        model: With item content.
        tokenized: As [`tokenize_splits`] returns it.
        most_loss: Share of the NDCG@10 that may be lost, in [0, 1).
    """
    if not 0 <= most_loss < 1:
        raise ValueError(f"the accuracy that may be lost is a share in [0, 1), got {most_loss}")
    items = np.unique(as_array(tokenized["train"]["input_ids"]).flatten().to_numpy())
    items = items[items != model.config.unk_token_id]
    new = np.random.default_rng(0).choice(items, max(round(SHARE * len(items)), 1), replace=False)
    forgetful = forget_items(
        model, *(torch.from_numpy(ids.astype(np.int64)) for ids in (np.setdiff1d(items, new), new))
    )
    with PartialState().split_between_processes(tokenized["validation"]) as part:
        ranks = gather_object([warm_ranks(forgetful, part, new)])
    ranks = [np.concatenate(of_offset) for of_offset in zip(*ranks, strict=True)]
    accuracy = [ndcg(rank, 10) for rank in ranks]
    kept = np.cumprod([value >= (1 - most_loss) * accuracy[0] for value in accuracy])
    return float(OFFSETS[max(int(kept.sum()) - 1, 1)])


@torch.no_grad()
def forget_items(model: PreTrainedModel, known: torch.Tensor, new: torch.Tensor) -> PreTrainedModel:
    """A copy of the model to which some of its items are new."""
    forgetful = copy.deepcopy(model).eval()
    for table in forgetful.tables:
        start_vectors(table, known, new, "similar")
    forgetful.scores.bias[new] = forgetful.scores.bias[known].mean()
    return forgetful


@torch.inference_mode()
def warm_ranks(model: PreTrainedModel, split: Dataset, new: np.ndarray) -> list[np.ndarray]:
    """The ranks of the targets that are not new, for each of `OFFSETS` of the scores of new items."""
    config, ranks = model.config, [[np.empty(0, dtype=np.int64)] for _ in OFFSETS]
    is_new = torch.zeros(config.vocab_size, dtype=torch.bool)
    is_new[torch.from_numpy(new.astype(np.int64))] = True
    batch_size = choose_eval_batch_size(config.vocab_size)
    for start in range(0, len(split), batch_size):
        rows = split[start : start + batch_size]
        request = build_request(config, rows["input_ids"], rows.get("event_features"), config.exclude_seen)
        request = {name: value.to(model.device) for name, value in request.items()}
        scores = model(**request, use_cache=False).logits[:, 0].cpu()
        labels = torch.tensor(rows["labels"])
        scores, labels = scores[~is_new[labels]], labels[~is_new[labels]]
        own = scores.gather(1, labels.unsqueeze(1))
        before = (scores[:, ~is_new] >= own).sum(1)
        for offset, found in zip(OFFSETS.tolist(), ranks, strict=True):
            found.append((before + (scores[:, is_new] + offset >= own).sum(1)).numpy())
    return [np.concatenate(found) for found in ranks]


__all__ = ["choose_new_item_offset"]
