"""Accuracy by the length of the history, against one request at a time."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset, DatasetDict
from runs import SIZES, as_table

from hf_rec import RecommendationPipeline
from hf_rec.cli.main import main
from hf_rec.data import build_sequences, histories_of, leave_one_out, tokenize_splits
from hf_rec.evaluation.baselines import BASELINES
from hf_rec.evaluation.history_length import evaluate_history_lengths, history_length_table, last_events
from hf_rec.hub import save_recommender
from hf_rec.training import create_model

LENGTHS = [2, 0, 3, 0]


def log():
    """Users with 3 to 9 events at irregular times, in one of three countries and with a rating."""
    rng = np.random.default_rng(0)
    rows, time = [], 0
    for user in range(40):
        for _ in range(int(rng.integers(3, 10))):
            time += int(rng.integers(1, 9_000))
            rows.append((f"u{user}", f"i{rng.integers(25)}", time, f"c{rng.integers(3)}", f"{rng.integers(5)}"))
    return as_table(rows, "country", "rating")


def recommender(is_decoder: bool, **config):
    splits = leave_one_out(build_sequences(log(), event_columns=["country", "rating"]))
    torch.manual_seed(0)
    columns = {"event_columns": ["rating"], "request_columns": ["country", "time_gap", "hour"]}
    model, tokenizer = create_model(splits, SIZES | {"is_decoder": is_decoder, **config}, 16, **columns)
    for name, weights in model.named_parameters():
        if any(part in name for part in ("feature", "bias", "id_embeddings")):
            torch.nn.init.normal_(weights)  # so that all of them count
    return splits, model.eval(), tokenizer


def cut_slowly(split: Dataset, count: int | None) -> Dataset:
    """One row at a time."""
    rows = split.to_list()
    for row in rows:
        for name in ("item_ids", "timestamps", "country", "rating"):
            row[name] = row[name] if count is None else row[name][len(row[name]) - min(count, len(row[name])) :]
    return Dataset.from_list(rows, features=split.features)


@pytest.mark.parametrize("is_decoder", [True, False])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_each_length_has_the_metrics_of_requests_with_so_many_events(is_decoder, exclude_seen):
    splits, model, tokenizer = recommender(is_decoder, exclude_seen=exclude_seen)
    recommend = RecommendationPipeline(model, tokenizer)
    found = evaluate_history_lengths(model, tokenizer, splits, LENGTHS, "mine", batch_size=7)
    assert list(found) == ["0", "2", "3", "whole"]
    values = []
    for length, row in found.items():
        cut = cut_slowly(splits["test"], None if length == "whole" else int(length))
        ranks = []
        whole = splits["test"]["item_ids"][:]
        for history, items, target in zip(
            histories_of(cut, model.config.features), whole, cut["target_id"], strict=True
        ):
            blocked = items if exclude_seen else []
            listed = [entry["item_id"] for entry in recommend(history, top_k=model.config.vocab_size, blocked=blocked)]
            ranks.append(1 + listed.index(target) if target in listed else np.inf)
        ranks = np.array(ranks)
        values.append(np.mean(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0)))
        assert row["metrics"]["mine"]["ndcg@10"] == pytest.approx(values[-1])
        assert row["metrics"]["mine"]["hr@10"] == pytest.approx(np.mean(ranks <= 10))
        tokenized = tokenize_splits(DatasetDict(splits | {"test": cut}), tokenizer, model.config.features)
        for name, baseline in BASELINES.items():
            scores = baseline(tokenized["train"], len(tokenizer))(tokenized["test"]["input_ids"][:])
            scores[:, :3] = -np.inf
            for place, items in enumerate(whole):
                scores[place, tokenizer.convert_tokens_to_ids(items) if exclude_seen else []] = -np.inf
            targets = torch.tensor(tokenized["test"]["labels"])
            ranks = (scores >= scores.gather(1, targets[:, None])).sum(1).numpy()
            ranks = np.where(np.isfinite(scores.gather(1, targets[:, None])[:, 0]), ranks, np.inf)
            assert row["metrics"][name]["hr@10"] == pytest.approx(np.mean(ranks <= 10))
            gains = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0)
            assert row["metrics"][name]["ndcg@10"] == pytest.approx(np.mean(gains))
        least = 0 if length == "whole" else int(length)
        assert row["histories"] == sum(len(items) >= least for items in whole)
    assert len({*values}) == 4


def test_the_values_of_events_stay_beside_them_and_the_request_is_kept():
    splits, *_ = recommender(True)
    for count in (0, 1, 4, 99):
        assert last_events(splits["test"], count).to_list() == cut_slowly(splits["test"], count).to_list()


def test_a_length_below_zero_is_an_error():
    splits, model, tokenizer = recommender(True)
    with pytest.raises(ValueError, match=r"0 or more events, got history_lengths \[-1, 2\]"):
        evaluate_history_lengths(model, tokenizer, splits, [2, -1])


def test_the_command_prints_writes_and_plots_the_table(tmp_path, capsys):
    splits, model, tokenizer = recommender(True)
    save_recommender(tmp_path / "model", model, tokenizer)
    pyarrow.parquet.write_table(log(), tmp_path / "log.parquet")
    call = ["evaluate", "--model_name_or_path", str(tmp_path / "model"), "--train_file", str(tmp_path / "log.parquet")]
    lengths = ["--history_lengths", "0", "2"]
    main([*call, *lengths, "--plot", str(tmp_path / "plot.png"), "--output_file", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    expected = evaluate_history_lengths(model, tokenizer, splits, [0, 2])
    assert list(written["history_lengths"]) == ["0", "2", "whole"]
    for length, row in expected.items():
        assert written["history_lengths"][length]["histories"] == row["histories"]
        for metric in ("ndcg@10", "hr@10"):
            known = written["history_lengths"][length]["metrics"]["model"][metric]
            assert known == pytest.approx(row["metrics"]["model"][metric])
    assert written["model"]["ndcg@10"] == written["history_lengths"]["whole"]["metrics"]["model"]["ndcg@10"]
    assert history_length_table(written["history_lengths"]) in capsys.readouterr().out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    for options, message in (
        (["--plot", "x.png"], "--history_lengths"),
        ([*lengths, "--hold_out_items", "0.1"], "hold"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*call, *options])


def test_the_table_has_a_row_for_each_length():
    scores = {"a|b": {"ndcg@10": 0.25, "hr@10": 1.0}, "model": {"ndcg@10": 0.5, "hr@10": 0.75}}
    table = history_length_table(
        {"1": {"histories": 1200, "metrics": scores}, "whole": {"histories": 3, "metrics": scores}}
    )
    assert table.splitlines() == [
        "| events | histories | ndcg@10, a\\|b | ndcg@10, model | hr@10, a\\|b | hr@10, model |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 1 | 1,200 | 0.2500 | 0.5000 | 1.0000 | 0.7500 |",
        "| whole | 3 | 0.2500 | 0.5000 | 1.0000 | 0.7500 |",
    ]
