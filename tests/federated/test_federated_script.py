"""The command `hf-rec federated simulate`, and the script that measures federated training."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("flwr")

import federated
from runs import country_log

from hf_rec.cli.main import main
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.evaluation import evaluate
from hf_rec.federated.processes import HISTORY
from hf_rec.training import load_model


@pytest.fixture
def log_file(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(country_log(num_users=30), path)
    return str(path)


def test_a_simulation_saves_the_model_that_it_measured(log_file, tmp_path, capsys):
    folder = tmp_path / "simulated"
    options = ["--train_file", log_file, "--output_dir", str(folder), "--client_column", "country", "--rounds", "3"]
    main(
        ["federated", "simulate", *options, "--clients_per_round", "3", "--validate_every", "2", "--drop_rate", "0.3"]
    )
    history = json.loads((folder / HISTORY).read_text())
    assert [row["accepted"] + row["dropped"] for row in history] == [3, 3, 3]
    assert ["validation_ndcg@10" in row for row in history] == [False, True, True]
    model, tokenizer = load_model(str(folder))
    tokenized = tokenize_splits(leave_one_out(build_sequences(log_file)), tokenizer)
    assert history[-1]["test_mrr"] == pytest.approx(evaluate(model, tokenized)["mrr"], abs=1e-6)
    assert str(history[-1]["round"]) in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no empty folder"):
        main(["federated", "simulate", *options])


def test_the_script_measures_each_way_once(log_file, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "measured"
    options = ["--train_file", log_file, "--output_dir", str(folder), "--rounds", "2", "--clients_per_round", "3"]
    options += ["--strategies", "fedavg", "--secure_rounds", "2", "--noise_multipliers", "2", "--every", "1"]
    options += ["--central_steps", "4", "--alone_steps", "1", "--alone_clients", "2"]
    monkeypatch.setattr(sys, "argv", ["federated.py", *options])
    federated.main()
    printed = capsys.readouterr().out
    text = (folder / "results.json").read_text()
    runs = json.loads(text)["0"]
    ways = [
        "popularity",
        "central",
        "each client alone",
        "fedavg",
        "fedadam, secure aggregation, 2 rounds",
        "fedadam, noise 2",
    ]
    assert {*runs} == {*ways, "revealed, noise 2"} and all(f"| {way} |" in printed for way in ways)
    assert [round for round, _ in runs["fedavg"]["curve"]] == [1, 2]
    assert 1.5 < runs["fedadam, secure aggregation, 2 rounds"]["received"] / runs["fedavg"]["received"] < 2.5
    assert runs["fedadam, noise 2"]["epsilon"] > 0 and (folder / "rounds.png").stat().st_size > 5_000
    seen = runs["revealed, noise 2"]
    assert seen["client's own update"] > 0.9 > seen["mean with noise"]
    assert f"- in the mean with noise: {seen['mean with noise']:.2f}" in printed
    federated.main()
    assert (folder / "results.json").read_text() == text


def test_the_share_found_is_of_the_rows_that_change_the_most():
    change = np.array([[0, 0], [3, 4], [1, 0], [0, -2], [0, 0.5]])
    assert federated.share_found(change, np.array([1, 3])) == 1
    assert federated.share_found(change, np.array([1, 2])) == 0.5
    assert federated.share_found(change, np.array([0, 4])) == 0


def test_seen_items_are_ranked_where_they_are_asked_for(log_file, tmp_path):
    folder = tmp_path / "simulated"
    options = ["--train_file", log_file, "--client_column", "country", "--rounds", "1", "--clients_per_round", "3"]
    main(["federated", "simulate", *options, "--output_dir", str(folder), "--include_seen"])
    model, tokenizer = load_model(str(folder))
    assert not model.config.exclude_seen
    (row,) = json.loads((folder / HISTORY).read_text())
    tokenized = tokenize_splits(leave_one_out(build_sequences(log_file)), tokenizer)
    assert row["test_mrr"] == pytest.approx(evaluate(model, tokenized)["mrr"], abs=1e-6)
    again = ["--output_dir", str(tmp_path / "further"), "--model_name_or_path", str(folder)]
    main(["federated", "simulate", *options, *again, "--include_seen", "false"])
    assert load_model(str(tmp_path / "further"))[0].config.exclude_seen
    items = ["--items_file", log_file, "--output_dir", str(tmp_path / "agreed")]
    main(["federated", "create", *items, "--include_seen"])
    assert not load_model(str(tmp_path / "agreed"))[0].config.exclude_seen


def test_a_simulation_refuses_what_it_would_not_read(log_file, tmp_path):
    given = ["--output_dir", str(tmp_path / "simulated"), "--rounds", "1"]
    with pytest.raises(SystemExit, match=r"\['--hold_out_items'\] are not read here"):
        main(["federated", "simulate", *given, "--train_file", log_file, "--hold_out_items", "0.1"])
    main(["prepare", log_file, "--output_dir", str(tmp_path / "sequences"), "--engine", "arrow"])
    with pytest.raises(SystemExit, match="give the log, not a folder of `hf-rec prepare`"):
        main(["federated", "simulate", *given, "--train_file", str(tmp_path / "sequences")])
