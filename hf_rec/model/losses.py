"""Losses over a catalogue of items: pure functions of the states, the item table and the targets.

Each returns the sum over the targets, computed in float32 (float64 for float64 inputs), also under autocast. A target
of -100 adds nothing.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn
from transformers.utils import is_liger_kernel_available

from .cpu import fast_products

CHUNK_SCORES = 2**20  # scores that the full softmax holds at a time: 4 MB in float32, about the cache of a CPU core
ACCELERATOR_CHUNK_SCORES = 2**26  # on an accelerator, which needs large products: 256 MB in float32
CHUNK_TARGETS = 64  # but at least the scores of this many targets, so that products stay large


def softmax_loss(
    states: torch.Tensor,
    item_table: torch.Tensor,
    item_bias: torch.Tensor,
    target_ids: torch.Tensor,
    history_ids: torch.Tensor | None = None,
    history_bias: torch.Tensor | None = None,
    compare: Callable | None = None,
) -> torch.Tensor:
    """Cross entropy over the whole catalogue: -log softmax(states @ item_table.T + item_bias)[target].

    The scores are computed, differentiated and dropped in chunks of targets, as in the
    [Liger kernels](https://arxiv.org/abs/2410.10989), so no more than one chunk of them is ever held. On a GPU the
    cross entropy of a chunk and its gradient are one kernel of `liger-kernel`, if it is installed.

    Args:
        states: (targets, hidden_size).
        item_table: (vocab_size, hidden_size).
        item_bias: (vocab_size,).
        target_ids: (targets,), -100 where there is nothing to predict.
        history_ids: (targets, n) items whose scores have an extra bias, for each target.
        history_bias: (targets, n) that bias; an item that occurs several times gets the sum.
        compare: In place of the cross entropy: a function of (rows, vocab_size) scores, the (rows,) targets and the
            slice of these rows, that returns their (rows,) losses and, in place of the scores, the gradients.

    Example:
        >>> states, item_table = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [0.0]])
        >>> softmax_loss(states, item_table, torch.zeros(2), torch.tensor([0, 1]))  # log(1 + exp(-2)) + log(2)
        tensor(0.8201)
    """
    if history_ids is None:
        history_ids, history_bias = target_ids.new_empty(len(target_ids), 0), states.new_empty(len(target_ids), 0)
    if selects_labels(target_ids.device) and (target_ids < 0).any():
        if compare is not None:
            raise ValueError("compare takes targets that are all known, got some of -100")
        known = target_ids >= 0
        states, target_ids, history_ids, history_bias = (
            tensor[known] for tensor in (states, target_ids, history_ids, history_bias)
        )

    def compare_chunk(scores: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        targets = target_ids[part]
        return cross_entropy_(scores, targets) if compare is None else compare(scores, targets, part)

    return ChunkedSoftmaxLoss.apply(states, item_table, item_bias, history_bias, history_ids, compare_chunk)


def sampled_softmax_loss(
    states: torch.Tensor,
    item_vectors: torch.Tensor,
    item_bias: torch.Tensor,
    target_ids: torch.Tensor,
    negative_ids: torch.Tensor,
    log_expected_counts: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Cross entropy over each target and negatives that all targets share, with the logQ correction.

    Each negative's score is lowered by the logarithm of its expected count in the sample, so that the sum over the
    sample estimates the sum over the catalogue
    ([Bengio and Senécal, 2008](https://doi.org/10.1109/TNN.2007.912312)). A negative that equals the target is left
    out.

    Args:
        states: (targets, hidden_size).
        item_vectors: (targets + negatives, hidden_size) rows of the item table, first those of the targets.
        item_bias: (targets + negatives,).
        target_ids: (targets,).
        negative_ids: (negatives,).
        log_expected_counts: (negatives,), or one number for all.
    """
    positive, negative = sampled_scores(states, item_vectors, item_bias, target_ids, negative_ids)
    scores = torch.cat([positive.unsqueeze(1), negative - log_expected_counts], dim=1)
    return (scores.logsumexp(1) - positive).masked_fill(target_ids < 0, 0.0).sum()


def gbce_loss(
    states: torch.Tensor,
    item_vectors: torch.Tensor,
    item_bias: torch.Tensor,
    target_ids: torch.Tensor,
    negative_ids: torch.Tensor,
    num_items: int,
    calibration: float = 0.75,
) -> torch.Tensor:
    """Generalised binary cross entropy: -beta log sigmoid(positive) - sum log(1 - sigmoid(negative)).

    [Petrov and Macdonald, 2023](https://arxiv.org/abs/2308.07192): beta = alpha (t (1 - 1 / alpha) + 1 / alpha), where
    alpha is the share of the other items that is sampled and t the calibration. A negative that equals the target is
    left out.

    Args:
        states: (targets, hidden_size).
        item_vectors: (targets + negatives, hidden_size) rows of the item table, first those of the targets.
        item_bias: (targets + negatives,).
        target_ids: (targets,).
        negative_ids: (negatives,), shared by all targets.
        num_items: Items of the catalogue.
        calibration: t, in [0, 1]; 0 is the plain binary cross entropy, 1 removes the overconfidence of sampling.
    """
    positive, negative = sampled_scores(states, item_vectors, item_bias, target_ids, negative_ids)
    beta = gbce_weight(len(negative_ids), num_items, calibration)
    losses = beta * nn.functional.softplus(-positive) + nn.functional.softplus(negative).sum(1)
    return losses.masked_fill(target_ids < 0, 0.0).sum()


def gbce_weight(num_negatives: int, num_items: int, calibration: float) -> float:
    """The beta of [`gbce_loss`], the weight of a target beside its negatives."""
    alpha = min(num_negatives / max(num_items - 1, 1), 1.0)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def sample_items(count: int, vocab_size: int, special_token_ids: tuple[int, ...], device=None) -> torch.Tensor:
    """(count,) ids of items, drawn uniformly and with replacement by torch's global generator."""
    ids = torch.randint(vocab_size - len(special_token_ids), (count,), device=device)
    for special in sorted(special_token_ids):
        ids += ids >= special
    return ids


def sampled_scores(states, item_vectors, item_bias, target_ids, negative_ids):
    """(targets,) scores of the targets, (targets, negatives) scores of the negatives, -inf for the target itself."""
    dtype = torch.promote_types(item_vectors.dtype, torch.float32)
    count = len(target_ids)
    with torch.autocast(states.device.type, enabled=False):
        states, item_vectors = states.to(dtype), item_vectors.to(dtype)
        positive = (states * item_vectors[:count]).sum(1) + item_bias[:count]
        negative = nn.functional.linear(states, item_vectors[count:], item_bias[count:].to(dtype))
    return positive, negative.masked_fill(negative_ids == target_ids.unsqueeze(1), -math.inf)


def selects_labels(device: torch.device) -> bool:
    """Whether training selects the positions that have a label. An accelerator would have to wait for their number, so
    there the losses take all positions, with targets of -100."""
    return device.type == "cpu"


def chunk_targets(num_items: int, device: torch.device) -> int:
    """Targets whose scores of all items are held at a time."""
    scores = CHUNK_SCORES if device.type == "cpu" else ACCELERATOR_CHUNK_SCORES
    return max(scores // num_items, CHUNK_TARGETS)


def cross_entropy_(scores: torch.Tensor, target_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The (rows,) cross entropies of (rows, items) scores and, in their place, the gradients of the scores.

    Both are 0 for a target of -100, except where [`selects_labels`] has left out such targets.
    """
    kernel = fused_cross_entropy() if scores.is_cuda and scores.dtype == torch.float32 else None
    if kernel is not None:
        return kernel(scores, target_ids)
    targets = target_ids.clamp(min=0).unsqueeze(1)
    own = scores.gather(1, targets).squeeze(1)
    probabilities, totals = softmax_(scores)
    losses = totals - own
    errors = probabilities.scatter_add_(1, targets, probabilities.new_full(targets.shape, -1.0))
    if selects_labels(scores.device):
        return losses, errors
    known = (target_ids >= 0).to(scores.dtype)
    return losses * known, errors.mul_(known.unsqueeze(1))


def softmax_(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The softmax of (rows, items) scores, in their place, and the (rows,) logarithms of the sums of exponentials."""
    best = scores.amax(1)
    probabilities = torch.softmax(scores, dim=1, out=scores)
    return probabilities, best - probabilities.amax(1).log()


@lru_cache
def fused_cross_entropy() -> Callable | None:
    """[`cross_entropy_`] as one kernel of `liger-kernel`, None if it is not installed."""
    if not is_liger_kernel_available() or find_spec("liger_kernel.backends") is None:  # older versions
        return None
    import_module("liger_kernel.functional")  # declares the kernels
    dispatch = import_module("liger_kernel.backends").dispatch

    def kernel(scores, target_ids):
        count, options = len(scores), (None, -100, 0.0, 0.0, "sum", None)  # no weights, no smoothing, no cap
        losses, *_, errors = dispatch(
            "cross_entropy_loss_and_grad", scores, target_ids, *options, count, count, 0.0, False, False, False, True
        )
        return losses, errors

    return kernel


class ChunkedSoftmaxLoss(torch.autograd.Function):
    """[`softmax_loss`], whose gradients are computed in the forward pass, while the scores of a chunk are there.

    `compare` makes losses and gradients, in their place, of the scores of a slice of the states.
    """

    @staticmethod
    def forward(ctx, states, item_table, item_bias, history_bias, history_ids, compare):
        dtype = torch.promote_types(item_table.dtype, torch.float32)
        inputs = states, item_table, item_bias, history_bias
        table, bias = item_table.to(dtype), item_bias.to(dtype)
        gradients = None
        if any(ctx.needs_input_grad):
            gradients = [torch.zeros_like(tensor, dtype=dtype) for tensor in inputs]
        loss = table.new_zeros(())
        rows = chunk_targets(len(table), states.device)
        with torch.autocast(states.device.type, enabled=False), fast_products():
            for start in range(0, len(states), rows):
                part = slice(start, start + rows)
                chunk, history = states[part].to(dtype), history_ids[part]
                scores = torch.addmm(bias, chunk, table.t())  # (rows, vocab_size)
                scores.scatter_add_(1, history, history_bias[part].to(dtype))
                losses, errors = compare(scores, part)
                loss += losses.sum()
                if gradients:
                    torch.mm(errors, table, out=gradients[0][part])
                    gradients[1].addmm_(errors.t(), chunk)
                    gradients[2] += errors.sum(0)
                    torch.gather(errors, 1, history, out=gradients[3][part])
        if gradients:
            ctx.gradients = [gradient.to(like.dtype) for gradient, like in zip(gradients, inputs, strict=True)]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("softmax_loss keeps its gradients for one backward pass; compute the loss again")
        return (*(gradient.mul_(grad_output) for gradient in gradients), None, None)


__all__ = ["gbce_loss", "gbce_weight", "sample_items", "sampled_softmax_loss", "softmax_loss"]
