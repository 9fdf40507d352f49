import copy

import pytest
import torch
from conftest import small_model, without_dropout

from hf_rec import Feature
from hf_rec.model.inputs import build_inputs, build_request

MASK = 2
FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("hour", "hour", at="request"),
    Feature("price", "number", at="both", edges=[1.0, 2.0]),
]
HISTORIES = [[3, 4, 5, 3, 6, 7, 8, 9, 3], [10, 11], []]


def codes(history: list[int]) -> list[list[int]]:
    return [[1 + place % 3, place % 25, place % 4, 3 - place % 4] for place in range(len(history) + 1)]


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def full(request):
    """A model in float32 with features, a moving average and a repeat bias."""
    model = small_model(23, is_decoder=request.param, features=FEATURES, use_repeat_bias=True, moving_average=0.5)
    torch.nn.init.normal_(model.scores.repeat_bias.bias, std=0.1)
    return without_dropout(model)


@pytest.fixture
def request_batch(full) -> dict[str, torch.Tensor]:
    return build_request(full.config, HISTORIES, [*map(codes, HISTORIES)])


@pytest.fixture
def training_batch(full) -> dict[str, torch.Tensor]:
    """Rows of different lengths, one of them without any item."""
    batch = build_inputs(full.config, HISTORIES, [codes(history)[:-1] for history in HISTORIES])
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] < 3, -100)
    if not full.config.is_decoder:
        masked = torch.arange(8) % 2 == 1
        batch["labels"] = batch["labels"].masked_fill(~masked, -100)
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["labels"] != -100, MASK)
    return batch


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.3), (torch.float16, 0.04)])
@torch.no_grad()
def test_scores_in_half_precision_are_close_to_those_in_float32(full, request_batch, attention, dtype, tolerance):
    full.set_attn_implementation(attention)
    expected = full(**request_batch).logits
    found = copy.deepcopy(full).to(dtype)(**request_batch).logits
    assert found.dtype == dtype
    assert torch.equal(found.isneginf(), expected.isneginf())
    left = ~expected.isneginf()
    assert found[left].isfinite().all()
    assert expected[left].std() > 1.5
    assert (found.float() - expected)[left].abs().max() < tolerance


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_losses_in_half_precision_are_close_to_those_in_float32(full, training_batch, dtype, tolerance, training):
    expected = full.train(training)(**training_batch).loss
    half = copy.deepcopy(full).to(dtype)
    loss = half(**training_batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    if dtype == torch.bfloat16:  # float16 has no 1 / sqrt(epsilon) of the layer norm, which padding needs
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in half.parameters())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_padding_gives_no_nan(recommender, attention, dtype):
    recommender.set_attn_implementation(attention)
    inputs = torch.tensor([[0, 0, 0], [0, 3, MASK]])
    logits = recommender.to(dtype)(inputs, attention_mask=(inputs != 0).long()).logits
    assert logits.isfinite().all()


def gradients(model, batch: dict[str, torch.Tensor], enabled: bool) -> tuple[float, torch.Tensor]:
    """Loss and all gradients of a step, with bfloat16 where autocast takes it."""
    model.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        loss = model(**batch).loss
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_a_training_step_under_autocast_is_close_to_one_in_float32(full, training_batch):
    full.train()
    exact, expected = gradients(full, training_batch, enabled=False)
    loss, found = gradients(full, training_batch, enabled=True)
    assert found.isfinite().all()
    assert loss == pytest.approx(exact, rel=0.02)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99
    torch.optim.SGD(full.parameters(), lr=0.1).step()
    assert full(**training_batch).loss.isfinite()


@pytest.mark.parametrize("loss_type", ["sampled_softmax", "gbce"])
@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_training_step_with_sampled_negatives_under_autocast_is_close_to_one_in_float32(is_decoder, loss_type):
    model = small_model(23, is_decoder, loss_type=loss_type, num_negatives=9, hidden_dropout_prob=0.0).train()
    inputs = torch.tensor([[3, 4, MASK, 6], [7, 8, 9, MASK]])
    labels = torch.tensor([[-100, -100, 5, -100], [-100, -100, -100, 10]])
    exact, expected = gradients(model, {"input_ids": inputs, "labels": labels}, enabled=False)
    loss, found = gradients(model, {"input_ids": inputs, "labels": labels}, enabled=True)
    assert found.isfinite().all()
    assert loss == pytest.approx(exact, rel=0.02)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_session_in_half_precision_knows_the_ids_that_it_read(dtype):
    decoder = small_model(2500, is_decoder=True, use_repeat_bias=True)
    torch.nn.init.normal_(decoder.scores.repeat_bias.bias)
    decoder = decoder.to(dtype)
    inputs = torch.tensor([[2499, 2497, 2303, 2499, 2301, 2049]])  # odd numbers that the types do not have
    cache = decoder(inputs[:, :4]).cache
    rest = decoder(inputs[:, 4:], cache=cache).logits
    torch.testing.assert_close(rest, decoder(inputs).logits[:, 4:], atol=0.2, rtol=0.02)
