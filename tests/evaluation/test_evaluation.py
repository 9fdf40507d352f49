import pytest
import torch
from conftest import small_model
from datasets import Dataset, DatasetDict
from transformers import TrainingArguments

from hf_rec.evaluation.evaluate import evaluate, evaluate_baselines, ranking_metrics
from hf_rec.model.inputs import build_request
from hf_rec.model.ranking import target_rank

SPLITS = DatasetDict(
    train=Dataset.from_dict({"input_ids": [[3, 4, 5], [4, 5, 4, 6], [3]]}),
    validation=Dataset.from_dict({"input_ids": [[3, 4]], "labels": [5]}),
    test=Dataset.from_dict(
        {"input_ids": [[3, 4, 5], [], [*range(3, 16)]], "labels": [6, 3, 20], "length": [3, 0, 13]}
    ),
)


def slow_ranks(model, split: str) -> list[int]:
    """One request at a time."""
    ranks = []
    for row in SPLITS[split]:
        request = build_request(model.config, [row["input_ids"]], exclude_seen=model.config.exclude_seen)
        with torch.inference_mode():
            scores = model(**request).logits[:, 0]
        ranks.append(target_rank(scores, torch.tensor([row["labels"]])).item())
    return ranks


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_model_is_evaluated_by_its_requests_whatever_the_batch(is_decoder, exclude_seen):
    model = small_model(23, is_decoder, exclude_seen=exclude_seen)
    for split in ("validation", "test"):
        ranks = torch.tensor(slow_ranks(model, split), dtype=torch.double)
        expected = {
            "hr@5": (ranks <= 5).double().mean().item(),
            "ndcg@10": torch.where(ranks <= 10, 1 / (1 + ranks).log2(), 0).mean().item(),
            "mrr": (1 / ranks).mean().item(),
        }
        for batch_size in (0, 1, 2):
            found = evaluate(model, SPLITS, split=split, batch_size=batch_size)
            assert {name: found[name] for name in expected} == pytest.approx(expected)
        assert "loss" in found and not any(name.startswith(split) for name in found)


def test_evaluation_leaves_no_folder_and_keeps_the_arguments(tmp_path, monkeypatch, decoder):
    monkeypatch.chdir(tmp_path)
    args = TrainingArguments("runs", use_cpu=True, per_device_eval_batch_size=7, report_to="none")
    with_args, without = evaluate(decoder, SPLITS, args), evaluate(decoder, SPLITS)
    assert [with_args[name] for name in ("mrr", "loss")] == [without[name] for name in ("mrr", "loss")]
    assert args.per_device_eval_batch_size == 7
    assert not list(tmp_path.iterdir())


def test_metrics_know_the_training_data_and_the_catalogue(model):
    metrics = ranking_metrics(SPLITS["train"], model.config)
    assert metrics.item_counts.tolist() == [0, 0, 0, 2, 3, 2, 1, *[0] * 16]
    assert metrics.num_items == 20


def test_baselines_are_evaluated_on_any_split(model):
    metrics = ranking_metrics(SPLITS["train"], model.config)
    results = evaluate_baselines(SPLITS, model.config, metrics, split="validation")
    assert list(results) == ["popularity", "last-item Markov"]
    assert [row["mrr"] for row in results.values()] == [1, 1]  # without the seen items 5 is first
    assert results != evaluate_baselines(SPLITS, model.config, metrics)


@pytest.mark.parametrize(("exclude_seen", "warned"), [(True, True), (False, False)])
def test_targets_that_no_ranking_has_are_warned_of(caplog, exclude_seen, warned):
    model = small_model(23, is_decoder=True, exclude_seen=exclude_seen)
    seen = DatasetDict(SPLITS | {"test": Dataset.from_dict({"input_ids": [[3, 4], [5]], "labels": [3, 6]})})
    evaluate(model, seen)
    warnings = [message for message in caplog.messages if "--include_seen" in message]
    assert bool(warnings) == warned
    assert all("50%" in message and "test targets" in message for message in warnings)
