"""Faster CPU kernels beside the plain operations that they stand for.

Each kernel is compared with its plain operation at first use and, where the two disagree, never used again in the
process. `HF_REC_CPU_KERNELS=0` in the environment switches all of them off.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)

FEW_STATES = 4  # rows up to which blocks of the table are multiplied one by one
LARGE_TABLE = 2**16  # rows from which on a table does not fit the cache of a CPU
TABLE_BLOCKS = 16


def usable(kernel: Callable[[], bool]) -> bool:
    """Whether the kernels are on and the check of this one succeeded."""
    return os.environ.get("HF_REC_CPU_KERNELS", "1") != "0" and checked(kernel)


@lru_cache
@torch.no_grad()
def checked(check: Callable[[], bool]) -> bool:
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False), torch.device("cpu"):
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` would seed GPUs too
        agrees = check()
    if not agrees:
        logger.warning(f"a CPU kernel differs from the plain operation ({check.__name__}); the plain one is used")
    return agrees


class Dropout(nn.Dropout):
    """`nn.Dropout` with cheaper masks on a CPU: 64 random bits decide on four elements.

    The probability is rounded to a multiple of 1 / 65,536.
    """

    def forward(self, input):
        if not self.training:
            return input
        threshold = round(self.p * 2**16)
        if input.device.type != "cpu" or threshold in (0, 2**16) or not usable(check_dropout):
            return super().forward(input)
        return input * dropout_mask(input.shape, threshold, input.dtype)


def dropout_mask(shape: torch.Size, threshold: int, dtype: torch.dtype) -> torch.Tensor:
    """0 with the probability `threshold` / 65,536, else the factor that keeps the mean."""
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.long, device="cpu").random_(-(2**63), None)
    noise = bits.view(torch.int16)[:count].view(shape)
    return (noise >= threshold - 2**15).to(dtype).mul_(2**16 / (2**16 - threshold))


def check_dropout() -> bool:
    mask = dropout_mask(torch.Size([40_000]), 2**14, torch.float32)
    values = torch.tensor([0, 4 / 3], dtype=torch.float32)
    return torch.equal(mask.unique(), values) and abs(mask.mean().item() - 1) < 0.03


def score_items(states: torch.Tensor, table: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`linear(states, table, bias)`: (..., items) scores of (..., hidden_size) states, by the vectors of the items.

    For a few states and a large table on a CPU, blocks of the table are multiplied one by one, which is several times
    faster.
    """
    if len(table) < LARGE_TABLE or table.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.linear(states, table, bias)
    rows = states.shape[:-1].numel()  # a constant in an exported graph, so not above
    if not 0 < rows <= FEW_STATES or torch.is_grad_enabled() or not usable(check_blocks):
        return nn.functional.linear(states, table, bias)
    scores = multiply_blocks(states.reshape(rows, -1), table)
    return (scores + bias).view(*states.shape[:-1], -1)


def multiply_blocks(states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(rows, items) products of (rows, hidden_size) states and a table."""
    columns = states.t()  # (hidden_size, rows)
    rest = len(table) % TABLE_BLOCKS
    blocks = table[: len(table) - rest].view(TABLE_BLOCKS, -1, table.shape[1])
    scores = torch.bmm(blocks, columns.expand(TABLE_BLOCKS, -1, -1)).flatten(0, 1)  # (items - rest, rows)
    return torch.cat([scores, table[len(table) - rest :] @ columns]).t()


def check_blocks() -> bool:
    states, table = torch.randn(2, 8, dtype=torch.float32), torch.randn(1_003, 8, dtype=torch.float32)
    return torch.allclose(multiply_blocks(states, table), states @ table.t(), atol=1e-4)


def sum_rows(weight: torch.Tensor, codes: torch.Tensor, shares: torch.Tensor, users=None) -> torch.Tensor:
    """(rows, size) weighted sums of the rows of a table: those that (rows, columns) codes name, without row 0.

    On a CPU the gradient is also computed as such a sum, over the users of each code, which is ten times faster.

    Args:
        users: What [`users_of_codes`] returns, if it is at hand.
    """
    learned = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if weight.device.type != "cpu" or not learned or not usable(check_sum_rows):
        return plain_sum_rows(weight, codes, shares)
    return SumRows.apply(weight, codes, shares, users)


def plain_sum_rows(weight: torch.Tensor, codes: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    return nn.functional.embedding_bag(codes, weight, mode="sum", per_sample_weights=shares, padding_idx=0)


class SumRows(torch.autograd.Function):
    """`plain_sum_rows` with another gradient of the table."""

    @staticmethod
    def forward(ctx, weight, codes, shares, users):
        ctx.save_for_backward(*(users or users_of_codes(codes, shares, len(weight))))
        return plain_sum_rows(weight, codes, shares)

    @staticmethod
    def backward(ctx, gradient):
        rows, starts, shares = ctx.saved_tensors
        table = nn.functional.embedding_bag(rows, gradient, starts, mode="sum", per_sample_weights=shares)
        table[0] = 0.0
        return table, None, None, None


def users_of_codes(
    codes: torch.Tensor, shares: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows that have each code, code after code; where those of each of the `length` codes begin; their shares."""
    ordered, order = codes.flatten().sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(length, dtype=ordered.dtype, device=codes.device))
    return order // codes.shape[1], starts, shares.flatten()[order]


@torch.enable_grad()
def check_sum_rows() -> bool:
    codes, shares = torch.tensor([[1, 0, 3], [2, 3, 3]], dtype=torch.int32), torch.rand(2, 3, dtype=torch.float32)
    weight = torch.randn(5, 4, dtype=torch.float32, requires_grad=True)
    sums = [plain_sum_rows(weight, codes, shares), SumRows.apply(weight, codes, shares, None)]
    gradients = [torch.autograd.grad((total**2).sum(), weight)[0] for total in sums]
    return all(torch.allclose(plain, fast, atol=1e-5) for plain, fast in (sums, gradients))


def fast_products() -> AbstractContextManager:
    """A context in which float32 matrix products run in oneDNN, where that is faster and exact.

    On AMD CPUs oneDNN takes less than half of the time of MKL, the default of PyTorch. PyTorch chooses oneDNN when
    bfloat16 products are allowed and the CPU supports the type; oneDNN then computes in float32 unless the CPU has
    AMX. The check at first use holds that it does.
    """
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not cpu.get("avx512_bf16") or cpu.get("amx_bf16") or not usable(check_onednn):
        return nullcontext()
    return onednn()


def onednn() -> AbstractContextManager:
    flags = torch.backends.mkldnn
    return flags.flags(flags.enabled, flags.deterministic, flags.allow_tf32, fp32_precision="bf16")


def check_onednn() -> bool:
    left, right = torch.randn(64, 96, dtype=torch.float32), torch.randn(96, 128, dtype=torch.float32)
    exact = (left.double() @ right.double()).float()
    with onednn():
        return torch.allclose(left @ right, exact, atol=1e-4)  # bfloat16 would be wrong by 0.1


__all__ = ["Dropout", "fast_products", "score_items", "sum_rows", "users_of_codes"]
