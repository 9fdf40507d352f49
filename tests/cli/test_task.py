"""`hf-rec train --task classification`, in this process."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from runs import country_log
from transformers import pipeline

from hf_rec import Bert4RecConfig
from hf_rec.cli import train as train_command
from hf_rec.cli.main import main
from hf_rec.training import Hooks

TINY = ["--hidden_size", 16, "--max_length", 8, "--per_device_train_batch_size", 64, "--max_steps", 6]
TINY += ["--use_cpu", "true", "--disable_tqdm", "true", "--gradient_accumulation_steps", 1, "--eval_steps", 0.5]
TINY += ["--save_steps", 0.5, "--task", "classification"]


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Drawing takes as long as a small training."""
    for name in ("run.plot_training_curve", "classify.plot_calibration"):
        monkeypatch.setattr(f"hf_rec.training.{name}", lambda *_: None)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    log = country_log(num_users=60)
    prices = pa.array([number * 7 % 11 - 1 for number in range(log.num_rows)])
    pa.parquet.write_table(log.append_column("price", prices), folder / "log.parquet")
    users = log["user_id"].unique()
    table = {
        "user_id": users,
        "timestamp": [4] * len(users),
        "age": [["young", "old"][number % 2] for number in range(len(users))],
        "returns": [number % 3 == 0 for number in range(len(users))],
    }
    pa.parquet.write_table(pa.table(table), folder / "users.parquet")
    return folder


def train(folder: Path, *options: object) -> tuple[dict, Bert4RecConfig]:
    main(["train", *map(str, [*TINY, "--output_dir", folder, *options])])
    return json.loads((folder / "all_results.json").read_text()), Bert4RecConfig.from_pretrained(folder)


def evaluated(folder: Path, *options: object) -> dict:
    """The metrics of the model by `hf-rec evaluate`."""
    file = folder.with_suffix(".json")
    main(["evaluate", *map(str, ["--model_name_or_path", folder, "--output_file", file, *options])])
    return json.loads(file.read_text())[folder.name]


def of_test(results: dict) -> dict:
    measured = {name.removeprefix("test_"): value for name, value in results.items() if name.startswith("test_")}
    return {name: value for name, value in measured.items() if "runtime" not in name and "per_second" not in name}


def test_a_label_of_events_by_an_expression_and_a_filter(shop, tmp_path, capsys):
    log = ["--train_file", shop / "log.parquet", "--filter", "price >= 0"]
    columns = ["--event_columns", "price", "--request_columns", "country", "time_gap"]
    results, config = train(tmp_path / "dear", *log, *columns, "--label_column", "price > 5")
    assert config.label_of == "event" and config.id2label == {0: "false", 1: "true"} and config.is_decoder
    read = pa.parquet.read_table(shop / "log.parquet").to_pylist()
    users = [row["user_id"] for row in read if row["price"] >= 0]
    assert results["test_labels"] == sum(users.count(user) >= 3 for user in {*users})
    printed = capsys.readouterr().out
    for name in ("prior", "logistic regression", "gradient boosting", "dear"):
        assert f"| {name} " in printed
    assert f"{results['test_auc']:.4f}" in printed
    assert evaluated(tmp_path / "dear", *log, "--label_column", "price > 5") == pytest.approx(of_test(results))
    card = (tmp_path / "dear" / "README.md").read_text()
    assert "--label_column 'price > 5'" in card and "Split: leave-one-out" in card

    tuned, other = train(
        tmp_path / "tuned", *log, "--model_name_or_path", tmp_path / "dear", "--label_column", "price > 5"
    )
    assert tuned["prior_log_loss"] == results["prior_log_loss"] and other.features == config.features


def test_a_label_of_users_beside_what_is_known_of_them(shop, tmp_path):
    data = ["--train_file", shop / "log.parquet", "--users_file", shop / "users.parquet", "--label_of", "user"]
    results, config = train(
        tmp_path / "returns",
        *data,
        "--label_column",
        "returns",
        "--user_columns",
        "age",
        "--request_columns",
        "time_gap",
        "--seed",
        "7",  # the split of the users is that of every seed
    )
    assert config.label_of == "user" and [feature.name for feature in config.features] == ["time_gap", "age"]
    assert results["test_labels"] == 6
    same = evaluated(tmp_path / "returns", *data[:4], "--label_column", "returns")
    assert same == pytest.approx(of_test(results))
    predict = pipeline("behavior-prediction", model=str(tmp_path / "returns"))
    answer = predict({"item_ids": ["0-1"], "timestamps": [1], "age": "old", "request": {"time": 4}}, top_k=None)
    assert {row["label"] for row in answer} == {"false", "true"}
    assert sum(row["score"] for row in answer) == pytest.approx(1)
    assert "Split: random users" in (tmp_path / "returns" / "README.md").read_text()

    alone, config = train(tmp_path / "alone", *data, "--label_column", "returns", "--objective", "cloze")
    assert not config.features and not config.is_decoder and alone["prior_auc"] == 0.5


def test_attributes_of_users_may_stand_beside_labels_of_events(shop, tmp_path):
    data = ["--train_file", shop / "log.parquet", "--users_file", shop / "users.parquet", "--user_columns", "age"]
    results, config = train(tmp_path / "dear", *data, "--label_column", "price > 5", "--split", "temporal")
    assert config.label_of == "event" and [feature.name for feature in config.features] == ["age"]
    assert results["test_labels"] > 20


def test_a_label_to_evaluate_is_one_of_a_classifier(shop, tmp_path):
    log = ["--train_file", shop / "log.parquet"]
    train(tmp_path / "dear", *log, "--label_column", "price > 5")
    with pytest.raises(SystemExit, match="--label_column is the label of a classifier.*label_of='event'"):
        evaluated(tmp_path / "dear", *log)
    with pytest.raises(SystemExit, match=r"\['--include_seen'\] are no options of a classifier"):
        evaluated(tmp_path / "dear", *log, "--label_column", "price > 5", "--include_seen")


def test_hooks_are_for_recommenders(shop, tmp_path):
    options = [*TINY, "--output_dir", tmp_path / "x", "--train_file", shop / "log.parquet", "--label_column", "price"]
    with pytest.raises(ValueError, match=r"a classifier takes no hooks, got Hooks\("):
        train_command.main([*map(str, options)], Hooks(collator=object))
    assert not (tmp_path / "x").exists()
