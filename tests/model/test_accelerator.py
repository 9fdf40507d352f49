"""What the model does on an accelerator, where nothing may wait for the number of labels, compared on a CPU."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import small_model, without_dropout

from hf_rec import RecommendationCollator
from hf_rec.model import losses, modeling_bert4rec
from hf_rec.training.trainer import compact_labels

LOSSES = {"softmax": {}, "sampled_softmax": {"num_negatives": 7}, "gbce": {"num_negatives": 7}}


def as_on_an_accelerator(monkeypatch) -> None:
    for module in (losses, modeling_bert4rec):
        monkeypatch.setattr(module, "selects_labels", lambda device: False)  # noqa: ARG005


def batch_of(model) -> dict[str, torch.Tensor]:
    """Rows of several lengths, one of them without a label."""
    histories = [[3, 4, 5, 4, 6], [7, 8], [9], [10, 11, 12, 10, 13, 14, 15], [1]]
    torch.manual_seed(3)
    return RecommendationCollator(model.config)([{"input_ids": history} for history in histories])


def learned(model, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    loss = model(**batch).loss
    return loss, torch.autograd.grad(loss, [*model.parameters()])


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("total", [None, 40])
def test_losses_at_all_positions_are_those_at_the_labels(is_decoder, loss_type, total, monkeypatch):
    repeats = {"use_repeat_bias": loss_type == "softmax"}
    model = small_model(23, is_decoder, loss_type=loss_type, **LOSSES[loss_type], **repeats)
    model = without_dropout(model).double().train()
    if total:
        torch.nn.init.normal_(model.scores.bias)
    batch = batch_of(model) | ({"num_items_in_batch": torch.tensor(total)} if total else {})
    expected = learned(model, batch)
    as_on_an_accelerator(monkeypatch)
    torch.testing.assert_close(learned(model, batch), expected)
    if not is_decoder:
        compact = compact_labels(dict)(batch)
        assert compact["labels"].shape == compact["logits_to_keep"].shape < batch["labels"].shape
        torch.testing.assert_close(learned(model, compact), expected)


@pytest.mark.parametrize("is_decoder", [False, True])
def test_logits_of_labels_are_the_same(is_decoder, monkeypatch):
    model = small_model(23, is_decoder)
    batch = batch_of(model)
    expected = model(**batch)
    as_on_an_accelerator(monkeypatch)
    found = model(**batch)
    torch.testing.assert_close((found.loss, found.logits), (expected.loss, expected.logits))


def test_no_step_reads_a_number_of_a_tensor(monkeypatch):
    """Neither of the two models reads a value in the forward and backward pass, nor a shape that depends on values."""
    as_on_an_accelerator(monkeypatch)
    for is_decoder in (False, True):
        model = small_model(23, is_decoder, use_repeat_bias=True).train()
        batch = batch_of(model)
        batch = batch if is_decoder else compact_labels(dict)(batch)
        learned(model, batch)  # kernels are checked at first use
        with Watch() as watch:
            learned(model, batch)
        assert watch.waits == []
        with Watch() as watch:
            model.eval()(**batch)  # which selects the labels
        assert watch.waits


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the operations that an accelerator would wait for."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ARG002
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put_", "index_put") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if masks or name.startswith(self.WAITING):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("name", ["softmax", "sampled", "gbce"])
def test_a_target_of_minus_100_adds_nothing(name, accelerator, monkeypatch):
    if accelerator:
        as_on_an_accelerator(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    states, table = (torch.randn(count, 4, generator=generator, dtype=torch.float64) for count in (6, 9))
    bias, targets = torch.randn(9, generator=generator, dtype=torch.float64), torch.tensor([3, -100, 5, 3, -100, 8])
    history = torch.tensor([[4, 5]]).expand(6, 2)
    negatives = torch.tensor([3, 6, 7])
    inputs = [tensor.requires_grad_() for tensor in (states, table, bias)]

    def loss(rows):
        own = targets[rows]
        if name == "softmax":
            return losses.softmax_loss(states[rows], table, bias, own, history[rows], states[rows, :2])
        ids = torch.cat([own.clamp(min=0), negatives])
        sampled = states[rows], table[ids], bias[ids], own, negatives
        return losses.sampled_softmax_loss(*sampled) if name == "sampled" else losses.gbce_loss(*sampled, num_items=9)

    found, expected = loss(torch.arange(6)), loss(torch.tensor([0, 2, 3, 5]))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs))


def test_a_chunk_of_scores_suits_the_device():
    assert losses.chunk_targets(2**10, torch.device("cpu")) == 2**10
    assert losses.chunk_targets(2**10, torch.device("cuda")) == 2**16
    assert losses.chunk_targets(2**30, torch.device("cuda")) == losses.CHUNK_TARGETS


FUSED = """
import torch
from hf_rec.model.losses import cross_entropy_, fused_cross_entropy, softmax_loss

torch.manual_seed(0)
for items in (50, 40_000):
    scores, targets = 3 * torch.randn(6, items), torch.tensor([3, -100, 7, 0, items - 1, -100])
    found, expected = fused_cross_entropy()(scores.clone(), targets), cross_entropy_(scores.clone(), targets)
    for part, whole in zip(found, expected):
        torch.testing.assert_close(part[targets >= 0], whole[targets >= 0], rtol=1e-5, atol=1e-5)
        assert (part[targets < 0] == 0).all()
"""


@pytest.mark.slow
def test_the_fused_cross_entropy_is_the_plain_one_in_the_interpreter_of_triton():
    pytest.importorskip("liger_kernel")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", FUSED], check=True, env=environment, timeout=300)
