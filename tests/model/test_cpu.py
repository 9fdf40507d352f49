import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from hf_rec.model import cpu
from hf_rec.model.cpu import LARGE_TABLE, Dropout, SumRows, fast_products, multiply_blocks, score_items, sum_rows

CHECKS = ["check_dropout", "check_blocks", "check_onednn", "check_sum_rows"]


@pytest.fixture
def unchecked():
    """Kernels as in a new process, before their first use."""
    cpu.checked.cache_clear()
    yield
    cpu.checked.cache_clear()


@pytest.fixture
def with_bf16(monkeypatch):
    """A CPU on which oneDNN is faster."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


@pytest.mark.parametrize("probability", [0.2, 0.5, 1e-4])
def test_dropout_drops_its_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    dropout, states = Dropout(probability), torch.ones(1_000_003, requires_grad=True)
    dropped = dropout(states)
    share = (dropped == 0).float().mean().item()
    assert share == pytest.approx(probability, abs=4 * (probability / 1_000_003) ** 0.5 + 2**-17)
    assert dropped.mean().item() == pytest.approx(1, abs=0.005)
    assert dropped.unique().tolist() == [0, pytest.approx(1 / (1 - probability), rel=1e-4)]
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())


def test_dropout_is_off_in_evaluation_follows_the_seed_and_draws_each_element_anew():
    dropout, states = Dropout(0.5), torch.ones(40_000, 4)
    torch.manual_seed(1)
    first = dropout(states)
    torch.manual_seed(1)
    assert torch.equal(dropout(states), first)
    assert not torch.equal(dropout(states), first)
    correlations = torch.corrcoef(first.T)  # of the four that share 64 bits
    assert (correlations - torch.eye(4)).abs().max() < 0.03
    assert dropout.eval()(states) is states
    assert Dropout(1.0)(states).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dropout_keeps_the_type_and_shape_of_its_input(dtype):
    states = torch.ones(5, 7, 3, dtype=dtype)
    dropped = Dropout(0.25)(states)
    assert dropped.dtype == dtype
    assert dropped.shape == states.shape
    assert {*dropped.flatten().tolist()} == {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    assert Dropout(0.25)(states[:0]).shape == (0, 7, 3)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 3), (5, 1), (0, 1)])
@pytest.mark.parametrize("vocab_size", [LARGE_TABLE, LARGE_TABLE + 13])
@torch.no_grad()
def test_a_few_states_get_the_scores_of_the_plain_product(shape, vocab_size):
    torch.manual_seed(0)
    table, bias, states = torch.randn(vocab_size, 6), torch.randn(vocab_size), torch.randn(*shape, 6)
    expected = torch.einsum("abh,vh->abv", states.double(), table.double()) + bias
    torch.testing.assert_close(score_items(states, table, bias), expected.float(), atol=1e-5, rtol=0)


@given(rows=st.integers(1, 5), items=st.integers(1, 40), seed=st.integers(0, 2**16))
@settings(max_examples=30)
def test_a_product_in_blocks_is_the_plain_product(rows, items, seed):
    generator = torch.Generator().manual_seed(seed)
    states, table = (torch.randn(count, 3, generator=generator, dtype=torch.float64) for count in (rows, items))
    torch.testing.assert_close(multiply_blocks(states, table), states @ table.t())


@given(rows=st.integers(0, 6), columns=st.integers(1, 4), length=st.integers(1, 7), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_sums_of_rows_and_their_gradient_are_those_of_a_slow_way(rows, columns, length, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(length, (rows, columns), generator=generator, dtype=torch.int32)
    shares = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    weight = torch.randn(length, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    kept = weight.masked_fill(torch.arange(length).unsqueeze(1) == 0, 0.0)
    expected = (shares.unsqueeze(-1) * kept[codes.long()]).sum(1)
    found = SumRows.apply(weight, codes, shares, None)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(sum_rows(weight, codes, shares), expected)
    upstream = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad(total, weight, upstream)[0] for total in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("with_bf16")
def test_products_in_onednn_are_those_in_float32_and_leave_torch_as_it_was():
    before = torch.backends.mkldnn.fp32_precision
    left, right = torch.randn(33, 65), torch.randn(65, 17)
    with fast_products():
        product = left @ right
    assert torch.backends.mkldnn.fp32_precision == before
    torch.testing.assert_close(product.double(), left.double() @ right.double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("capabilities", "used"),
    [({"avx512_bf16": True}, True), ({"avx512_bf16": True, "amx_bf16": True}, False), ({"avx2": True}, False)],
)
def test_onednn_is_used_where_it_is_faster_and_exact(monkeypatch, capabilities, used):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    entered = []
    monkeypatch.setattr(cpu, "check_onednn", lambda: True)
    monkeypatch.setattr(cpu, "onednn", lambda: entered.append(True))
    fast_products()
    assert entered == [True] * used


def broken(*_args):
    raise AssertionError("a kernel that is switched off was called")


def assert_plain_operations(monkeypatch):
    """Each operation gives the plain result, and no kernel is called for it."""
    for kernel in ("dropout_mask", "multiply_blocks", "onednn"):
        monkeypatch.setattr(cpu, kernel, broken)
    monkeypatch.setattr(SumRows, "apply", broken)
    weight, codes = torch.randn(3, 4, requires_grad=True), torch.tensor([[1, 2], [0, 2]])
    assert torch.equal(sum_rows(weight, codes, torch.ones(2, 2)), torch.stack([weight[1] + weight[2], weight[2]]))
    states, table, bias = torch.randn(1, 4), torch.randn(LARGE_TABLE, 4), torch.randn(LARGE_TABLE)
    with torch.no_grad():
        assert torch.equal(score_items(states, table, bias), torch.nn.functional.linear(states, table, bias))
    torch.manual_seed(3)
    dropped = Dropout(0.5)(table)
    torch.manual_seed(3)
    assert torch.equal(dropped, torch.nn.functional.dropout(table, 0.5))
    before = torch.backends.mkldnn.fp32_precision
    with fast_products():
        assert torch.backends.mkldnn.fp32_precision == before


@pytest.mark.usefixtures("with_bf16", "unchecked")
def test_the_environment_switches_all_kernels_off(monkeypatch):
    monkeypatch.setenv("HF_REC_CPU_KERNELS", "0")
    assert_plain_operations(monkeypatch)


@pytest.mark.usefixtures("with_bf16", "unchecked")
def test_a_kernel_whose_check_fails_gives_way_to_the_plain_operation_with_one_warning(monkeypatch, caplog):
    for name in CHECKS:

        def check():
            return False

        check.__name__ = name
        monkeypatch.setattr(cpu, name, check)
    with caplog.at_level(logging.WARNING):
        assert_plain_operations(monkeypatch)
        assert_plain_operations(monkeypatch)
    warnings = [record.getMessage() for record in caplog.records if record.name == cpu.__name__]
    assert len(warnings) == len(CHECKS)
    assert all(any(name in warning for warning in warnings) for name in CHECKS)


class RoundedProducts(TorchFunctionMode):
    """Products as bfloat16 gives them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ARG002
        output = func(*args, **(kwargs or {}))
        return output.bfloat16().float() if func is torch.Tensor.matmul else output


@pytest.mark.parametrize(
    ("check", "kernel", "wrong"),
    [
        ("check_dropout", "dropout_mask", lambda shape, _threshold, dtype: torch.ones(shape, dtype=dtype)),
        ("check_blocks", "multiply_blocks", lambda states, table: states @ table.t() + 0.01),
        ("check_onednn", "onednn", lambda: RoundedProducts()),
    ],
)
def test_a_check_finds_a_wrong_kernel(monkeypatch, check, kernel, wrong):
    assert getattr(cpu, check)()
    monkeypatch.setattr(cpu, kernel, wrong)
    assert not getattr(cpu, check)()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", CHECKS)
def test_a_check_leaves_random_states_and_settings_as_they_were(monkeypatch, name):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(5)
    seeded.clear()
    before, settings_before = torch.get_rng_state(), torch.backends.mkldnn.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):
        assert cpu.usable(getattr(cpu, name))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.backends.mkldnn.fp32_precision == settings_before
    assert not seeded  # nor is the state of a GPU touched


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_check_does_not_depend_on_the_defaults_of_torch(name, device):
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device(device):
            assert cpu.usable(getattr(cpu, name))
            states = torch.ones(9, dtype=torch.float32, device="cpu")
            assert Dropout(0.5)(states).device == states.device
    finally:
        torch.set_default_dtype(torch.float32)


def test_scores_have_gradients():
    table = torch.randn(LARGE_TABLE, 2, requires_grad=True)
    states = torch.randn(1, 2, requires_grad=True)
    score_items(states, table, torch.zeros(LARGE_TABLE))[0, 7].backward()
    assert torch.equal(table.grad[7], states[0])
    assert table.grad.count_nonzero() == 2
    assert torch.equal(states.grad[0], table[7])
