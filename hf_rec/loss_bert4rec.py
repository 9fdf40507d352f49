"""Losses over a catalogue of items: pure functions of the states, the item table and the targets.

Each returns the sum over the targets, computed in float32 (float64 for float64 inputs), also under autocast.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

# Scores that the full softmax holds at a time, but no fewer than those of so many targets.
CHUNK_SCORES = 2**20
CHUNK_TARGETS = 64


def softmax_loss(
    states: torch.Tensor,
    item_table: torch.Tensor,
    item_bias: torch.Tensor,
    target_ids: torch.Tensor,
    history_ids: torch.Tensor | None = None,
    history_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy over the whole catalogue: -log softmax(states @ item_table.T + item_bias)[target].

    The scores are computed, differentiated and dropped in chunks of targets, as in the
    [Liger kernels](https://arxiv.org/abs/2410.10989), so no more than one chunk of them is ever held.

    Args:
        states: (targets, hidden_size).
        item_table: (vocab_size, hidden_size).
        item_bias: (vocab_size,).
        target_ids: (targets,).
        history_ids: (targets, n) items with a bias of their own for each target; their scores are raised by it.
        history_bias: (targets, n), that bias; an item that is there more than once has the sum.

    Example:
        >>> states, item_table = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [0.0]])
        >>> softmax_loss(states, item_table, torch.zeros(2), torch.tensor([0, 1]))  # log(1 + exp(-2)) + log(2)
        tensor(0.8201)
    """
    if history_ids is None:
        history_ids, history_bias = target_ids.new_empty(len(target_ids), 0), states.new_empty(len(target_ids), 0)
    return ChunkedSoftmaxLoss.apply(states, item_table, item_bias, history_bias, target_ids, history_ids)


def sampled_softmax_loss(
    states: torch.Tensor,
    item_table: torch.Tensor,
    item_bias: torch.Tensor,
    target_ids: torch.Tensor,
    negative_ids: torch.Tensor,
    log_expected_counts: float | torch.Tensor = 0.0,
    sparse: bool = False,
) -> torch.Tensor:
    """Cross entropy over each target and negatives that all targets share, with the logQ correction.

    A negative's score less the logarithm of how often it is expected in the sample makes the sum over the sample an
    estimate of the sum over the catalogue
    ([Bengio and Senécal, 2008](https://doi.org/10.1109/TNN.2007.912312)). A negative that is the target itself does
    not count.

    Args:
        states: (targets, hidden_size).
        item_table: (vocab_size, hidden_size).
        item_bias: (vocab_size,).
        target_ids: (targets,).
        negative_ids: (negatives,).
        log_expected_counts: (negatives,), or one number for all.
        sparse: Whether the gradient of the item table is sparse.
    """
    positive, negative = sampled_scores(states, item_table, item_bias, target_ids, negative_ids, sparse)
    scores = torch.cat([positive.unsqueeze(1), negative - log_expected_counts], dim=1)
    return (scores.logsumexp(1) - positive).sum()


def gbce_loss(
    states: torch.Tensor,
    item_table: torch.Tensor,
    item_bias: torch.Tensor,
    target_ids: torch.Tensor,
    negative_ids: torch.Tensor,
    num_items: int,
    calibration: float = 0.75,
    sparse: bool = False,
) -> torch.Tensor:
    """Generalised binary cross entropy: -beta log sigmoid(positive) - sum log(1 - sigmoid(negative)).

    [Petrov and Macdonald, 2023](https://arxiv.org/abs/2308.07192): beta = alpha (t (1 - 1 / alpha) + 1 / alpha), where
    alpha is the share of the other items that is sampled and t the calibration. A negative that is the target itself
    does not count.

    Args:
        states: (targets, hidden_size).
        item_table: (vocab_size, hidden_size).
        item_bias: (vocab_size,).
        target_ids: (targets,).
        negative_ids: (negatives,), shared by all targets.
        num_items: Items of the catalogue.
        calibration: t, in [0, 1]; 0 is the plain binary cross entropy, 1 takes away the overconfidence of sampling.
        sparse: Whether the gradient of the item table is sparse.
    """
    positive, negative = sampled_scores(states, item_table, item_bias, target_ids, negative_ids, sparse)
    beta = gbce_weight(len(negative_ids), num_items, calibration)
    return beta * nn.functional.softplus(-positive).sum() + nn.functional.softplus(negative).sum()


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


def sampled_scores(states, item_table, item_bias, target_ids, negative_ids, sparse):
    """(targets,) scores of the targets, (targets, negatives) scores of the negatives, -inf for the target itself."""
    dtype = torch.promote_types(item_table.dtype, torch.float32)
    with torch.autocast(states.device.type, enabled=False):
        states = states.to(dtype)
        rows = nn.functional.embedding(torch.cat([target_ids, negative_ids]), item_table, sparse=sparse).to(dtype)
        positive = (states * rows[: len(target_ids)]).sum(1) + item_bias[target_ids]
        negative = nn.functional.linear(states, rows[len(target_ids) :], item_bias[negative_ids].to(dtype))
    return positive, negative.masked_fill(negative_ids == target_ids.unsqueeze(1), -math.inf)


def onednn_products() -> AbstractContextManager:
    """Float32 products by oneDNN, which on an AMD CPU takes less than half of the time of MKL, Torch's own choice.

    Torch asks oneDNN where it may multiply in bfloat16 and the CPU knows that type. oneDNN then does so only where the
    CPU has AMX, too; such a CPU keeps MKL, so that it is float32 everywhere.
    """
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not cpu.get("avx512_bf16") or cpu.get("amx_bf16"):
        return nullcontext()
    onednn = torch.backends.mkldnn
    return onednn.flags(onednn.enabled, onednn.deterministic, onednn.allow_tf32, fp32_precision="bf16")


class ChunkedSoftmaxLoss(torch.autograd.Function):
    """[`softmax_loss`], whose gradients are computed in the forward pass, while the scores of a chunk are there."""

    @staticmethod
    def forward(ctx, states, item_table, item_bias, history_bias, target_ids, history_ids):
        dtype = torch.promote_types(item_table.dtype, torch.float32)
        inputs = states, item_table, item_bias, history_bias
        table, bias = item_table.to(dtype), item_bias.to(dtype)
        gradients = None
        if any(ctx.needs_input_grad):
            gradients = [torch.zeros_like(tensor, dtype=dtype) for tensor in inputs]
        loss = table.new_zeros(())
        rows = max(CHUNK_SCORES // len(table), CHUNK_TARGETS)
        with torch.autocast(states.device.type, enabled=False), onednn_products():
            for start in range(0, len(states), rows):
                part = slice(start, start + rows)
                chunk, targets, history = states[part].to(dtype), target_ids[part].unsqueeze(1), history_ids[part]
                scores = torch.addmm(bias, chunk, table.t())  # (rows, vocab_size)
                scores.scatter_add_(1, history, history_bias[part].to(dtype))
                best, own = scores.amax(1), scores.gather(1, targets).squeeze(1)
                probabilities = torch.softmax(scores, dim=1, out=scores)
                loss += (best - own - probabilities.amax(1).log()).sum()
                if gradients:
                    errors = probabilities.scatter_add_(1, targets, probabilities.new_full(targets.shape, -1.0))
                    torch.mm(errors, table, out=gradients[0][part])
                    gradients[1].addmm_(errors.t(), chunk)
                    gradients[2].add_(errors.sum(0))
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
