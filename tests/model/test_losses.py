import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM
from hf_rec.model import losses
from hf_rec.model.losses import gbce_loss, gbce_weight, sample_items, sampled_softmax_loss, softmax_loss

SPECIAL = (0, 1, 2)


def catalogue(seed: int, targets: int = 7, vocab_size: int = 13, dtype=torch.float64) -> list[torch.Tensor]:
    """States, item table, item bias, target ids."""
    generator = torch.Generator().manual_seed(seed)
    floats = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((targets, 4), (vocab_size, 4))]
    bias = torch.randn(vocab_size, generator=generator, dtype=dtype)
    inputs = [tensor.requires_grad_() for tensor in (*floats, bias)]
    return [*inputs, torch.randint(3, vocab_size, (targets,), generator=generator)]


def sampled(inputs: list[torch.Tensor], target_ids: torch.Tensor, negative_ids: torch.Tensor) -> tuple:
    """Arguments of a sampled loss: the states, and the rows of the targets and negatives."""
    states, table, bias = inputs
    ids = torch.cat([target_ids, negative_ids])
    return states, table[ids], bias[ids], target_ids, negative_ids


def gradients(loss: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(3 * loss, inputs)


@given(seed=st.integers(0, 2**16), targets=st.integers(0, 9), chunk=st.integers(1, 10))
@settings(max_examples=30)
def test_chunked_softmax_is_cross_entropy_with_its_gradients(seed, targets, chunk):
    *inputs, target_ids = catalogue(seed, targets)
    states, table, bias = inputs
    expected = torch.nn.functional.cross_entropy(states @ table.T + bias, target_ids, reduction="sum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK_SCORES", 1)
        patch.setattr(losses, "CHUNK_TARGETS", chunk)
        loss = softmax_loss(*inputs, target_ids)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(gradients(loss, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)


@given(seed=st.integers(0, 2**16), length=st.integers(0, 6), chunk=st.integers(1, 10))
@settings(max_examples=30)
def test_the_bias_of_a_history_adds_up_in_the_scores_and_has_its_gradient(seed, length, chunk):
    *inputs, target_ids = catalogue(seed)
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(13, (len(target_ids), length), generator=generator)  # some items twice, some the target
    bias = torch.randn(history.shape, generator=generator, dtype=torch.float64).requires_grad_()
    scores = inputs[0] @ inputs[1].T + inputs[2]
    gains = torch.nn.functional.one_hot(history, 13).double() * bias.unsqueeze(-1)
    expected = torch.nn.functional.cross_entropy(scores + gains.sum(1), target_ids, reduction="sum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK_SCORES", 1)
        patch.setattr(losses, "CHUNK_TARGETS", chunk)
        loss = softmax_loss(*inputs, target_ids, history, bias)
    torch.testing.assert_close(loss, expected)
    inputs.append(bias)
    for one, other in zip(gradients(loss, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_softmax_never_holds_more_scores_than_a_chunk(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_SCORES", 5000)
    monkeypatch.setattr(losses, "CHUNK_TARGETS", 1)

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            sizes = [leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
            self.elements = max(self.elements, *sizes, 0)
            return output

    *inputs, target_ids = catalogue(0, targets=300, vocab_size=500)
    with Largest() as largest:
        softmax_loss(*inputs, target_ids).backward()
    assert 500 * 4 < largest.elements <= 5000


def test_a_second_backward_through_the_softmax_is_an_error_that_says_so():
    states = torch.ones(2, 3, requires_grad=True)
    loss = softmax_loss(states, torch.ones(4, 3), torch.zeros(4), torch.tensor([0, 1]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="softmax_loss.*one backward pass"):
        loss.backward()


def test_softmax_multiplies_in_float32_and_leaves_torch_as_it_was():
    *inputs, target_ids = catalogue(0, targets=64, vocab_size=2000, dtype=torch.float32)
    before = torch.backends.mkldnn.fp32_precision, torch.get_float32_matmul_precision()
    loss = softmax_loss(*inputs, target_ids)
    assert (torch.backends.mkldnn.fp32_precision, torch.get_float32_matmul_precision()) == before
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = softmax_loss(*doubles, target_ids)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for one, other in zip(gradients(loss, inputs), gradients(expected, doubles), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_a_target_of_no_probability_has_a_finite_loss():
    states, table = torch.tensor([[1000.0]]), torch.tensor([[1.0], [0.0]])
    assert softmax_loss(states, table, torch.zeros(2), torch.tensor([1])).item() == 1000


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_losses_are_computed_in_float32_under_autocast(loss):
    *inputs, target_ids = catalogue(1, dtype=torch.float32)
    negatives = torch.tensor([4, 5, 6, 5])
    compute = {
        "softmax": lambda: softmax_loss(*inputs, target_ids),
        "sampled_softmax": lambda: sampled_softmax_loss(*sampled(inputs, target_ids, negatives)),
        "gbce": lambda: gbce_loss(*sampled(inputs, target_ids, negatives), num_items=10),
    }[loss]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = compute()
    plain = compute()
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)
    for one, other in zip(gradients(mixed, inputs), gradients(plain, inputs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_losses_of_half_precision_inputs_are_computed_in_float32(loss, dtype):
    *inputs, target_ids = catalogue(1, dtype=torch.float32)
    negatives = torch.tensor([4, 5, 6, 5])
    compute = {
        "softmax": lambda inputs: softmax_loss(*inputs, target_ids),
        "sampled_softmax": lambda inputs: sampled_softmax_loss(*sampled(inputs, target_ids, negatives)),
        "gbce": lambda inputs: gbce_loss(*sampled(inputs, target_ids, negatives), num_items=10),
    }[loss]
    half = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
    full = [tensor.detach().float().requires_grad_() for tensor in half]
    found, expected = compute(half), compute(full)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for one, other in zip(gradients(found, half), gradients(expected, full), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other.to(dtype), rtol=2e-2, atol=2e-2)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_a_sample_of_the_whole_catalogue_is_the_full_softmax(seed):
    *inputs, target_ids = catalogue(seed)
    estimate = sampled_softmax_loss(*sampled(inputs, target_ids, torch.arange(13)))
    full = softmax_loss(*inputs, target_ids)
    torch.testing.assert_close(estimate, full)
    for one, other in zip(gradients(estimate, inputs), gradients(full, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_the_correction_makes_the_sampled_sum_an_estimate_of_the_sum_over_the_catalogue():
    *inputs, target_ids = catalogue(3, targets=1, vocab_size=53)
    states, table, bias = (tensor.detach() for tensor in inputs)
    scores = (states @ table.T + bias)[0]
    others = scores[3:].exp().sum() - scores[target_ids].exp()
    torch.manual_seed(0)
    estimates = []
    for _ in range(1000):
        negatives = sample_items(20, 53, SPECIAL)
        loss = sampled_softmax_loss(*sampled([states, table, bias], target_ids, negatives), math.log(20 / 50))
        estimates.append((loss.exp() - 1) * scores[target_ids].exp())  # exp(loss) = 1 + sum / exp(own score)
    assert torch.stack(estimates).mean().item() == pytest.approx(others.item(), rel=0.05)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_by_hand(calibration):
    states, table, bias = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.5], [-0.5], [1.0]]), torch.zeros(4)
    rows = sampled([states, table, bias], torch.tensor([1, 3]), torch.tensor([2, 3]))
    loss = gbce_loss(*rows, num_items=5, calibration=calibration)

    def sigmoid(score):
        return 1 / (1 + math.exp(-score))

    beta = 0.5 * (calibration * (1 - 2) + 2)  # two of four other items are sampled: alpha = 1 / 2
    expected = -beta * math.log(sigmoid(0.5)) - math.log(1 - sigmoid(-0.5)) - math.log(1 - sigmoid(1.0))
    expected += -beta * math.log(sigmoid(2.0)) - math.log(1 - sigmoid(-1.0))  # 3 is the target of the second
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert gbce_weight(2, 5, calibration) == pytest.approx(beta)


def test_gbce_begins_at_the_best_score_that_all_items_can_share():
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=23, loss_type="gbce", num_negatives=6)).double()
    shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    inputs = [torch.zeros(1, 64).double(), model.scoring_items.all_items(), model.scores.bias + shift]
    rows = sampled(inputs, torch.tensor([3]), torch.arange(4, 10))
    loss = gbce_loss(*rows, num_items=20, calibration=0.75)
    torch.testing.assert_close(torch.autograd.grad(loss, shift)[0], torch.zeros_like(shift))
    plain = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=23))
    assert plain.scores.bias.abs().max() == 0


def test_items_are_sampled_evenly_and_special_tokens_never():
    torch.manual_seed(0)
    counts = torch.bincount(sample_items(70_000, 10, (0, 4, 9)), minlength=10)
    assert counts[[0, 4, 9]].tolist() == [0, 0, 0]
    assert (counts[[1, 2, 3, 5, 6, 7, 8]] / 10_000 - 1).abs().max() < 0.05


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("loss_type", ["softmax", "sampled_softmax", "gbce"])
def test_training_minimises_the_loss_of_the_configuration(loss_type, padding_side):
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "max_position_embeddings": 8, "hidden_size": 16, "initializer_range": 0.5}
    config = Bert4RecConfig(**sizes, hidden_dropout_prob=0.0, loss_type=loss_type, num_negatives=6)
    model = Bert4RecForMaskedLM(config).double().train()
    inputs = torch.randint(3, 23, (3, 8))
    inputs[1, slice(0, 3) if padding_side == "left" else slice(5, None)] = 0
    labels = torch.full_like(inputs, -100)
    labels[0, 1], labels[1, 4], labels[2, 0], labels[2, 7] = 5, 6, 7, 8
    reference = copy.deepcopy(model)

    torch.manual_seed(1)
    outputs = model(inputs, attention_mask=(inputs != 0).long(), labels=labels, num_items_in_batch=8)
    outputs.loss.backward()
    assert outputs.logits is None

    logits = reference(inputs, attention_mask=(inputs != 0).long()).logits[labels != -100]
    targets = labels[labels != -100]
    torch.manual_seed(1)
    if loss_type == "softmax":
        expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    else:
        negatives = sample_items(6, 23, SPECIAL)
        positive, negative = logits.gather(1, targets.unsqueeze(1)), logits[:, negatives]
        negative = negative.masked_fill(negatives == targets.unsqueeze(1), -torch.inf)
        if loss_type == "sampled_softmax":
            scores = torch.cat([positive, negative - math.log(6 / 20)], dim=1)
            expected = -scores.log_softmax(1)[:, 0].sum()
        else:
            alpha = 6 / 19
            beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
            expected = -beta * positive.sigmoid().log().sum() - (1 - negative.sigmoid()).log().sum()
    (expected / 8).backward()

    torch.testing.assert_close(outputs.loss, expected / 8)
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)


def test_validation_loss_is_the_cross_entropy_whatever_training_minimises():
    inputs, labels = torch.tensor([[3, 4, 2]]), torch.tensor([[-100, -100, 5]])
    sizes = {"vocab_size": 23, "max_position_embeddings": 8, "hidden_size": 16}
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes, loss_type="gbce")).eval()
    outputs = model(inputs, labels=labels)
    assert outputs.loss.item() == pytest.approx(-outputs.logits.log_softmax(-1)[0, 5].item(), rel=1e-5)
