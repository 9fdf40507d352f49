"""Structured pruning: real smaller matrices, and which parts go."""

import copy

import pytest
import torch
from conftest import random_histories, small_model, without_dropout

from hf_rec.compression import Importance, measure_importance, prune
from hf_rec.compression.quantize import quantize_layers


@pytest.fixture(params=[False, True], ids=["model", "decoder"])
def sparse(request):
    """A model with parts that contribute nothing: one head and all but four feed-forward columns of each layer."""
    model = small_model(23, is_decoder=request.param, num_hidden_layers=2)
    first, second = model.model.layers
    with torch.no_grad():
        first.attention.output.weight[:, :8] = 0
        second.attention.output.weight[:, 8:] = 0
        first.mlp.down.weight[:, 4:] = 0
        second.mlp.down.weight[:, :28] = 0
    return model


def batches(count: int = 2, rows: int = 5) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    histories = [random_histories(generator, rows, 6) for _ in range(count)]
    return [{"input_ids": ids, "labels": ids} for ids in histories]


def test_parts_that_contribute_nothing_have_no_importance(sparse):
    found = measure_importance(sparse, batches())
    assert (found.heads > 0).tolist() == [[False, True], [True, False]]
    assert (found.columns > 0).nonzero().tolist() == [[0, n] for n in range(4)] + [[1, n] for n in range(28, 32)]
    assert (found.layers > 0).all()


def test_without_them_the_scores_are_the_same_from_smaller_matrices(sparse):
    small = prune(sparse, measure_importance(sparse, batches()), heads=1, intermediate_size=4)
    histories = random_histories(torch.Generator().manual_seed(1), 7, 6)
    torch.testing.assert_close(small(histories).logits, sparse(histories).logits, atol=1e-5, rtol=0)
    config = small.config
    assert (config.num_attention_heads, config.head_dim, config.intermediate_size) == (1, 8, 4)
    assert small.model.layers[0].mlp.up.weight.shape == (4, 16)
    assert small.model.layers[1].attention.query.weight.shape == (8, 16)
    assert small.model.layers[1].attention.output.weight.shape == (16, 8)


@pytest.mark.parametrize("idle", [0, 1, 2])
@pytest.mark.parametrize("moving_average", [0.0, 0.5])
def test_a_layer_that_does_nothing_is_the_one_that_goes(idle, moving_average):
    model = small_model(23, is_decoder=True, num_hidden_layers=3, moving_average=moving_average)
    layer = model.model.layers[idle]
    with torch.no_grad():
        for part in (layer.attention.output, layer.mlp.down):
            part.weight.zero_()
            part.bias.zero_()
        if moving_average:
            layer.attention_norm.weight.zero_()
            layer.attention_norm.bias.zero_()
    importance = measure_importance(model, batches())
    small = prune(model, importance, layers=2)
    histories = random_histories(torch.Generator().manual_seed(1), 7, 6)
    assert importance.layers.argmin() == idle and len(small.model.layers) == 2
    torch.testing.assert_close(small(histories).logits, model(histories).logits, atol=1e-5, rtol=0)


def test_the_moving_average_of_a_layer_counts():
    """A layer whose attention and feed-forward part give nothing still has its moving average."""
    model = small_model(23, is_decoder=True, num_hidden_layers=2, moving_average=0.5)
    with torch.no_grad():
        for part in (model.model.layers[0].attention.output, model.model.layers[0].mlp.down):
            part.weight.zero_()
            part.bias.zero_()
    importance = measure_importance(model, batches())
    assert importance.heads[0].sum() == importance.columns[0].sum() == 0
    assert importance.layers[0] > 0


def test_importance_is_the_derivative_of_the_loss_by_a_gate():
    """A slow second way: the loss of each history is differentiated by a factor of each part's output."""
    model = without_dropout(small_model(23, is_decoder=True, num_hidden_layers=2))
    (batch,) = batches(1)
    found = measure_importance(model, [batch])
    gated = copy.deepcopy(model).train()
    heads, columns = torch.ones(2, 2, requires_grad=True), torch.ones(2, 32, requires_grad=True)
    for number, layer in enumerate(gated.model.layers):
        for module, gates in ((layer.attention.output, heads[number]), (layer.mlp.down, columns[number])):
            width = module.in_features // len(gates)
            module.register_forward_pre_hook(
                lambda _, inputs, gates=gates, width=width: (inputs[0] * gates.repeat_interleave(width),)
            )
    expected = Importance(torch.zeros(2, 2), torch.zeros(2, 32), torch.zeros(2))
    rows = len(batch["input_ids"])
    for row in range(rows):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        gradients = torch.autograd.grad(gated(**one).loss / rows, (heads, columns))  # all have as many labels
        parts = *gradients, gradients[0].sum(1) + gradients[1].sum(1)
        for total, part in zip(expected, parts, strict=True):
            total += part.abs() / rows
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)


def test_measuring_changes_nothing(sparse):
    before = {name: tensor.clone() for name, tensor in sparse.state_dict().items()}
    measure_importance(sparse, batches())
    assert not sparse.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in sparse.state_dict().items())
    assert all(parameter.grad is None for parameter in sparse.parameters())


def test_a_pruned_model_is_saved_opened_and_generates(sparse, tmp_path):
    small = prune(sparse, measure_importance(sparse, batches()), heads=1, layers=1)
    small.save_pretrained(tmp_path)
    opened = type(sparse).from_pretrained(tmp_path)
    histories = random_histories(torch.Generator().manual_seed(1), 3, 4)
    assert torch.equal(opened(histories).logits, small(histories).logits)
    if small.config.is_decoder:
        whole = opened(histories).logits[:, -1]
        begun = opened(histories[:, :3], use_cache=True)
        torch.testing.assert_close(opened(histories[:, 3:], cache=begun.cache).logits[:, -1], whole)
        assert opened.generate(histories, max_new_tokens=2).shape == (3, 6)


@pytest.mark.parametrize(
    ("kept", "named"),
    [({"heads": 3}, "heads.* 1 to 2, got 3"), ({"layers": 0}, "layers.* 1 to 2, got 0")]
    + [({"intermediate_size": 33}, "intermediate_size.* 1 to 32, got 33")],
)
def test_more_parts_than_there_are_and_none_are_errors(sparse, kept, named):
    with pytest.raises(ValueError, match=named):
        prune(sparse, measure_importance(sparse, batches(1)), **kept)


def test_models_that_are_quantised_and_no_batches_are_errors(sparse):
    importance = measure_importance(sparse, batches(1))
    with pytest.raises(ValueError, match="int8_layers"):
        prune(quantize_layers(sparse), importance, heads=1)
    with pytest.raises(ValueError, match="none were given"):
        measure_importance(sparse, [])
