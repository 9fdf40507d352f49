"""Training and evaluation on a GPU, beside a CPU. Run with `pytest -m gpu`; skipped without a GPU."""

import copy
import sys
from contextlib import contextmanager, nullcontext

import benchmark_training
import pyarrow.parquet
import pytest
import torch
from conftest import small_model, without_dropout
from launching import losses, read, same_weights, train, weights
from runs import ITEMS, arguments, chains_log, shop_splits, steps
from transformers import Trainer
from transformers.utils import is_flash_attn_2_available

from hf_rec import RecommendationCollator
from hf_rec.data.encode import tokenize_splits
from hf_rec.evaluation.evaluate import evaluate
from hf_rec.model import losses as loss_module
from hf_rec.model.losses import cross_entropy_, fused_cross_entropy, softmax_loss
from hf_rec.training.create import create_model
from hf_rec.training.fit import fit, make_trainer
from hf_rec.training.optimization import SparseRowAdamW, sparse_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "hidden_dropout_prob": 0.0}
CONTENT = {"request_columns": ["time_gap", "hour"], "items": ITEMS, "item_columns": ["brand", "text"]}
OBJECTIVES = pytest.mark.parametrize("is_decoder", [True, False], ids=["causal", "masked"])


def shop(is_decoder: bool, **config):
    """A new model that reads features and content, its tokenizer and tokenized splits."""
    torch.manual_seed(0)
    fields = SIZES | {"is_decoder": is_decoder, "id_dropout_prob": 0.0} | config
    model, tokenizer = create_model(shop_splits(), fields, 16, **CONTENT)
    return model, tokenizer, tokenize_splits(shop_splits(), tokenizer, model.config.features)


def batches(model, tokenized, count: int = 4) -> list[dict[str, torch.Tensor]]:
    """Batches of training on the CPU."""
    torch.manual_seed(0)
    collate, rows = RecommendationCollator(model.config), tokenized["train"].to_list()
    return [collate(rows[start : start + 16]) for start in range(0, 16 * count, 16)]


def on_gpu(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cuda() for name, tensor in batch.items()}


def learn(model, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = model(**batch).loss
    return loss, torch.autograd.grad(loss, [*model.parameters()])


@OBJECTIVES
@pytest.mark.parametrize("repeats", [False, True], ids=["", "repeat bias"])
def test_losses_and_gradients_are_those_of_a_cpu(is_decoder, repeats):
    model, _, tokenized = shop(is_decoder, use_repeat_bias=repeats)
    model = model.double().train()
    there = copy.deepcopy(model).cuda()
    for batch in batches(model, tokenized):
        expected, found = learn(model, batch), learn(there, on_gpu(batch))
        torch.testing.assert_close(found[0].cpu(), expected[0])
        torch.testing.assert_close([gradient.cpu() for gradient in found[1]], expected[1])


@OBJECTIVES
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_training_learns_and_its_metrics_are_those_of_a_cpu(tmp_path, is_decoder, bf16):
    model, tokenizer, tokenized = shop(is_decoder)
    trainer = fit(model, tokenizer, tokenized, steps(tmp_path, 60, use_cpu=False, bf16=bf16))
    assert next(model.parameters()).is_cuda
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found[-1] < 0.9 * found[0]
    there = evaluate(model, tokenized, arguments(tmp_path, use_cpu=False))
    here = evaluate(model.cpu(), tokenized, arguments(tmp_path))
    for metric in ("ndcg@10", "hr@10", "mrr", "coverage@10", "novelty@10"):
        assert there[metric] == pytest.approx(here[metric], abs=5e-3)  # nearly equal scores may change places


@OBJECTIVES
def test_losses_under_autocast_are_close(is_decoder):
    model, _, tokenized = shop(is_decoder)
    model = model.cuda().train()
    for batch in map(on_gpu, batches(model, tokenized)):
        expected = model(**batch).loss
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=0.03, atol=0.0)


@OBJECTIVES
@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention", "eager"])
def test_scores_do_not_depend_on_the_kind_of_attention(is_decoder, attention):
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        pytest.skip("needs flash-attn")
    model, _, tokenized = shop(is_decoder)
    model = model.cuda().bfloat16().eval()
    other = copy.deepcopy(model)
    other.set_attn_implementation(attention)
    for batch in map(on_gpu, batches(model, tokenized)):
        expected, found = (reader(**batch).logits.float() for reader in (model, other))
        assert (found - expected).abs().max() < 0.05 * expected.std()


@OBJECTIVES
def test_a_compiled_model_learns_the_same(tmp_path, is_decoder):
    model, tokenizer, tokenized = shop(is_decoder)
    plain = copy.deepcopy(model)
    curves = []
    for learner, compiled in ((plain, False), (model, True)):
        args = steps(tmp_path / str(compiled), 8, use_cpu=False, torch_compile=compiled, logging_steps=1)
        trainer = fit(learner, tokenizer, tokenized, args)
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert curves[1] == pytest.approx(curves[0], rel=1e-2)


@contextmanager
def no_waiting():
    """An error for whatever makes the CPU wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@OBJECTIVES
@pytest.mark.parametrize("loss_type", ["softmax", "sampled_softmax", "gbce"])
def test_no_step_waits_for_the_gpu(tmp_path, is_decoder, loss_type):
    """Forward, backward and optimizer, with the batches of the Trainer, after a first step."""
    model, tokenizer, tokenized = shop(is_decoder, loss_type=loss_type, use_repeat_bias=loss_type == "softmax")
    trainer = make_trainer(model, tokenizer, tokenized, arguments(tmp_path, use_cpu=False))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    count = torch.tensor(100, device="cuda")
    for number, batch in zip(range(3), trainer.get_train_dataloader(), strict=False):
        with no_waiting() if number else nullcontext():
            model(**batch, num_items_in_batch=count).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.fixture
def kernel():
    pytest.importorskip("liger_kernel")
    return fused_cross_entropy()


@pytest.mark.parametrize("items", [50, 3_419, 100_003])
def test_the_fused_cross_entropy_is_the_plain_one(kernel, items):
    scores = 3 * torch.randn(64, items, device="cuda")
    targets = torch.randint(items, (64,), device="cuda").masked_fill(torch.rand(64, device="cuda") < 0.2, -100)
    found, errors = kernel(scores.clone(), targets)
    expected, plain = (tensor.cpu() for tensor in cross_entropy_(scores.double(), targets))
    known = (targets >= 0).cpu()
    torch.testing.assert_close(found.cpu().double()[known], expected[known], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(errors.cpu().double()[known], plain[known], rtol=1e-4, atol=1e-6)


def test_the_fused_loss_takes_a_bias_repeats_and_ignored_targets(kernel, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(loss_module, "ACCELERATOR_CHUNK_SCORES", 2**16)  # several chunks
    table, states = torch.randn(500, 32, device="cuda"), torch.randn(300, 32, device="cuda")
    bias, biases = torch.randn(500, device="cuda"), torch.randn(300, 7, device="cuda")
    targets = torch.randint(500, (300,), device="cuda").masked_fill(torch.rand(300, device="cuda") < 0.2, -100)
    history = torch.randint(500, (300, 7), device="cuda")

    def learn_as(dtype):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (states, table, bias, biases)]
        loss = softmax_loss(*inputs[:3], targets, history, inputs[3])
        return [loss.double(), *(gradient.double() for gradient in torch.autograd.grad(loss, inputs))]

    torch.testing.assert_close(learn_as(torch.float32), learn_as(torch.float64), rtol=1e-3, atol=1e-4)


def test_the_softmax_over_a_large_catalogue_holds_one_chunk_of_scores():
    table = torch.randn(200_000, 64, device="cuda", requires_grad=True)
    states = torch.randn(8_192, 64, device="cuda", requires_grad=True)
    targets = torch.randint(200_000, (8_192,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    softmax_loss(states, table, torch.zeros(200_000, device="cuda"), targets).backward()
    held = torch.cuda.max_memory_allocated() - before
    assert held < 3 * 4 * loss_module.ACCELERATOR_CHUNK_SCORES < 4 * 200_000 * 8_192


def test_rows_are_updated_as_on_a_cpu():
    ends = []
    for device in ("cpu", "cuda"):
        model = without_dropout(small_model(60, True, loss_type="gbce", num_negatives=40).double()).train().to(device)
        with sparse_rows(model):
            optimizer = SparseRowAdamW(model.parameters(), lr=0.1)
            for step in range(3):
                ids = torch.arange(3 + step, 11 + step, device=device).view(2, 4)
                model.items(ids).pow(2).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        ends.append(model.items.id_embeddings.weight.detach().cpu())
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("sharded", [False, True])
def test_several_gpus_have_the_loss_curve_of_one(tmp_path, sharded):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    options = {"is_decoder": True, "trainer": "stock", "use_cpu": False, "max_steps": 50, "logging_steps": 1}
    options |= {"save_strategy": "no", "load_best_model_at_end": False, "dataloader_drop_last": True, "eval_steps": 25}
    one = train(tmp_path / "one", 1, per_device_train_batch_size=16, **options)
    two = train(tmp_path / "two", 2, per_device_train_batch_size=8, sharded=sharded, **options)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert read(two, "metrics")["ndcg@10"] == pytest.approx(read(one, "metrics")["ndcg@10"], abs=1e-6)
    assert same_weights(weights(two), weights(two, 1))


def test_the_stock_trainer_takes_steps(tmp_path):
    model, _, tokenized = shop(True)
    args = steps(tmp_path, 4, use_cpu=False, eval_strategy="no", load_best_model_at_end=False)
    args.per_device_train_batch_size, args.weight_decay = 16, 0.0
    trainer = Trainer(
        model, args, train_dataset=tokenized["train"], data_collator=RecommendationCollator(model.config)
    )
    assert trainer.train().global_step == 4


def test_the_speed_of_training_is_measured(tmp_path, monkeypatch, capsys):
    log = tmp_path / "log.parquet"
    pyarrow.parquet.write_table(chains_log(), log)
    monkeypatch.setattr(benchmark_training, "PEERS", {})
    small = ["--max_length", "8", "--batch_size", "8", "--hf_rec_steps", "2", "--plain_steps", "2", "--runs", "1"]
    monkeypatch.setattr(sys, "argv", ["x", "--train_file", str(log), "--device", "cuda", *small])
    benchmark_training.main()
    assert capsys.readouterr().out.count("\n| `") == 3
