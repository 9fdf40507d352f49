"""`hf-rec train`, in this process: features, splits, resuming and pushing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import transformers
from fake_hub import TOKEN, fake_hub
from huggingface_hub import constants
from runs import clock_log, country_log
from safetensors.torch import load_file
from transformers import pipeline

from hf_rec import Bert4RecConfig, Feature
from hf_rec.cli.main import main
from hf_rec.cli.train import public_arguments
from hf_rec.data.demo_log import shop_log
from hf_rec.data.sequences import build_sequences

FAST = ["--use_cpu", "true", "--disable_tqdm", "true", "--gradient_accumulation_steps", 1]
TINY = [*FAST, "--hidden_size", 16, "--max_length", 8, "--per_device_train_batch_size", 64]
BY_STEPS = ["--learning_rate", 1e-2, "--warmup_steps", 10, "--eval_steps", 0.25, "--save_steps", 0.25]


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Drawing the learning curve takes as long as a small training."""
    monkeypatch.setattr("hf_rec.training.run.plot_training_curve", lambda *_: None)


@pytest.fixture(scope="module")
def log_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "log.parquet"
    pyarrow.parquet.write_table(shop_log(num_users=120)[0], path)
    return path


def run(command: str, *options: object) -> None:
    main([command, *map(str, options)])


def results_of(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())


def test_a_call_prints_the_metrics_and_the_card_has_its_command(log_file, tmp_path, capsys):
    folder = tmp_path / "model"
    run("train", "--train_file", log_file, "--output_dir", folder, "--max_steps", 5, "--window_probability", 0, *TINY)
    printed = capsys.readouterr().out
    results = results_of(folder)
    assert f"{results['test_ndcg@10']:.4f}" in printed and "last-item Markov" in printed and str(folder) in printed
    shown = f"--train_file {log_file.parent.name}/log.parquet --output_dir {tmp_path.name}/model --max_steps 5"
    assert f"hf-rec train {shown}" in (folder / "README.md").read_text()
    config = Bert4RecConfig.from_pretrained(folder)
    assert (config.is_decoder, config.hidden_size, config.max_position_embeddings) == (True, 16, 8)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_options_may_come_from_a_file(log_file, tmp_path, suffix):
    options = {"train_file": [str(log_file)], "output_dir": str(tmp_path / "model"), "max_steps": 2, "hidden_size": 16}
    (tmp_path / f"options.{suffix}").write_text(json.dumps(options | {"use_cpu": True, "disable_tqdm": True}))
    run("train", tmp_path / f"options.{suffix}")
    assert Bert4RecConfig.from_pretrained(tmp_path / "model").hidden_size == 16
    assert json.loads((tmp_path / "model" / "trainer_state.json").read_text())["global_step"] == 2


def test_a_new_column_is_read_by_its_name_alone(tmp_path, capsys):
    """A column of the log becomes a feature by its name in one option; all else follows."""
    log = shop_log(num_users=120)[0]
    rng = np.random.default_rng(0)
    log = log.append_column("wrapping", pa.array(rng.choice(["box", "bag", "none"], len(log))))
    log = log.append_column("device", pa.array(rng.choice(["phone", "desk"], len(log))))
    file, folder = tmp_path / "log.parquet", tmp_path / "model"
    pyarrow.parquet.write_table(log, file)
    options = ["--event_columns", "wrapping", "--request_columns", "device", "--max_steps", 12, *TINY, *BY_STEPS]
    run("train", "--train_file", file, "--output_dir", folder, *options)

    assert Bert4RecConfig.from_pretrained(folder).features == [
        Feature("wrapping", "category", "event", values=["bag", "box", "none"]),
        Feature("device", "category", "request", values=["desk", "phone"]),
    ]
    run("evaluate", "--model_name_or_path", folder, "--train_file", file, "--output_file", tmp_path / "metrics.json")
    again = json.loads((tmp_path / "metrics.json").read_text())["model"]
    assert again["mrr"] == pytest.approx(results_of(folder)["test_mrr"])
    capsys.readouterr()
    run("recommend", "--model_name_or_path", folder, "--file", file, "--top_k", 3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 120 and all(len(line["recommended"]) == 3 for line in lines)

    recommend = pipeline("recommendation", model=str(folder), top_k=200)
    items = ["sku-001", "sku-002"]

    def scores(**history) -> dict[str, float]:
        return {entry["item_id"]: entry["score"] for entry in recommend({"item_ids": items, **history})}

    plain = scores()
    by_wrapping = scores(wrapping=["box", "bag"])
    by_device = scores(request={"device": "phone"})
    whole = scores(wrapping=["box", "bag"], device=["desk", "desk"], request={"device": "phone"})
    answers = [plain, by_wrapping, by_device, whole]
    assert all(one != other for place, one in enumerate(answers) for other in answers[:place])
    assert recommend(items) == recommend({"item_ids": items})
    assert scores(request={"device": "a fridge"}) == plain  # as if it were unknown
    for options, expected in ([], plain), (["--request", '{"device": "phone"}'], by_device):
        capsys.readouterr()
        run("recommend", "--model_name_or_path", folder, "--top_k", 200, *options, "--history", *items)
        found = json.loads(capsys.readouterr().out)["recommended"]
        assert {entry["item_id"]: entry["score"] for entry in found} == pytest.approx(expected)


@pytest.mark.parametrize("objective", ["next-item", "cloze"])
def test_what_depends_on_the_request_is_solved_only_by_a_model_that_reads_it(objective, tmp_path):
    file = tmp_path / "log.parquet"
    pyarrow.parquet.write_table(country_log(num_users=100), file)
    options = ["--train_file", file, "--objective", objective, "--include_seen", "--use_repeat_bias", "false"]
    options += ["--hidden_dropout_prob", 0, "--max_steps", 40, *TINY, *BY_STEPS, "--learning_rate", 3e-2]
    run("train", *options, "--output_dir", tmp_path / "reads", "--request_columns", "country")
    run("train", *options, "--output_dir", tmp_path / "event", "--event_columns", "country")
    reads, event = results_of(tmp_path / "reads"), results_of(tmp_path / "event")
    assert reads["test_hr@5"] > 0.8  # the country of the request has five items of forty
    assert event["test_hr@5"] < 0.3  # countries of the past do not tell the next one
    assert reads["last-item Markov_hr@5"] < 0.3


@pytest.mark.parametrize(("objective", "max_steps"), [("next-item", 80), ("cloze", 200)])
def test_a_model_that_reads_times_answers_by_the_clock(objective, max_steps, tmp_path, capsys, caplog):
    log, folder, metrics = tmp_path / "log.parquet", tmp_path / "model", tmp_path / "metrics.json"
    pyarrow.parquet.write_table(clock_log(), log)
    options = ["--objective", objective, "--max_steps", max_steps, "--per_device_train_batch_size", 64, *FAST]
    options += ["--hidden_size", 64, "--hidden_dropout_prob", 0.0, "--use_repeat_bias", "false", *BY_STEPS]
    run(
        "train", "--train_file", log, "--output_dir", folder, *options, "--request_columns", "time_gap",
        "--include_seen",
    )  # fmt: skip
    recommend = pipeline("recommendation", model=str(folder), top_k=1)
    for last in range(10):
        history = {"item_ids": [f"item-{(last + 9) % 10}", f"item-{last}"], "timestamps": [0, 30]}
        soon, late = recommend([history | {"request": {"time": time}} for time in (40, 100_030)])
        assert (soon[0]["item_id"], late[0]["item_id"]) == (f"item-{(last + 1) % 10}", f"item-{(last + 5) % 10}")

    results = results_of(folder)
    assert results["test_ndcg@5"] > 0.85  # one of two without the clock: (1 + 1 / log2(3)) / 2 = 0.82 at best
    evaluate = ["evaluate", "--model_name_or_path", folder, "--train_file", log, "--output_file", metrics]
    run(*evaluate)
    assert json.loads(metrics.read_text())["model"]["hr@10"] == pytest.approx(results["test_hr@10"])
    assert "test targets" not in caplog.text
    run(*evaluate, "--include_seen", "false")
    assert "of the test targets are items of their user's history" in caplog.text
    assert json.loads(metrics.read_text())["model"]["hr@10"] < results["test_hr@10"]

    first = build_sequences(log)[0]
    history = {"item_ids": first["item_ids"], "timestamps": first["timestamps"]}
    for options, request in ([], {}), (["--request", '{"time": 100000000}'], {"request": {"time": 100_000_000}}):
        capsys.readouterr()
        run("recommend", "--model_name_or_path", folder, "--file", log, "--top_k", 1, *options)
        found = json.loads(capsys.readouterr().out.splitlines()[0])["recommended"]
        assert found[0]["item_id"] == recommend(history | request)[0]["item_id"]


def test_a_temporal_split_goes_the_whole_way(tmp_path, capsys):
    rng, rows = np.random.default_rng(0), []
    for user in range(60):  # items a to j in turn, from a time of chance on
        start = int(rng.integers(60))
        rows += [(f"u{user}", "abcdefghij"[(user + place) % 10], start + 5 * place) for place in range(10)]
    file, folder, metrics = tmp_path / "log.csv", tmp_path / "model", tmp_path / "metrics.json"
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(file, index=False)
    times = np.sort([time for _, _, time in rows])
    validation, test = (np.quantile(times, share, method="higher") for share in (0.8, 0.9))
    data = ["--train_file", file, "--split", "temporal", "--include_seen"]
    run("train", *data, "--output_dir", folder, "--max_steps", 40, *TINY, *BY_STEPS)

    results, card = results_of(folder), (folder / "README.md").read_text()
    spans = pd.DataFrame(rows, columns=["user", "item", "time"]).groupby("user").time.agg(["min", "max"])
    users = int(((spans["min"] < test) & (spans["max"] >= test)).sum())
    assert "temporal" in card and f"all {users} test users" in card
    assert f"{sum(times < validation)} interactions for training" in card
    for baseline in ("popularity", "last-item Markov"):
        assert f"| {baseline} " in card and 0 < results[f"{baseline}_mrr"] <= 1
    assert results["last-item Markov_mrr"] > results["popularity_mrr"]
    run("evaluate", "--model_name_or_path", folder, *data, "--output_file", metrics)
    again = json.loads(metrics.read_text())
    assert list(again) == ["popularity", "last-item Markov", "model"]
    assert again["model"]["mrr"] == pytest.approx(results["test_mrr"])
    assert "temporal" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_end(log_file, tmp_path, caplog):
    options = ["train", "--train_file", log_file, "--num_train_epochs", 12, "--save_total_limit", 100, *TINY]
    by_epoch = [word for name in ("eval", "save", "logging") for word in (f"--{name}_strategy", "epoch")]
    options = [*map(str, options), *by_epoch]
    run(*options, "--output_dir", tmp_path / "whole")

    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "hf_rec.cli.main", *options, "--output_dir", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(killed.glob("checkpoint-*/trainer_state.json"))) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "config.json").exists()
    last = max(killed.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    if (last / "trainer_state.json").exists():
        os.truncate(last / "trainer_state.json", 10)  # as if it had been killed while saving
    run(*options, "--output_dir", killed)
    assert "resuming from" in caplog.text and last.name in caplog.text
    log = json.loads((killed / "trainer_state.json").read_text())["log_history"]
    seconds = [entry["seconds"] for entry in log if "seconds" in entry]
    assert seconds == sorted(seconds) and seconds[-1] > log[-1]["train_runtime"] + seconds[0] / 2
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_pushing_tells_nobody_the_token_and_uploads_no_pickle(log_file, tmp_path, monkeypatch):
    options = ["train", "--train_file", log_file, "--output_dir", tmp_path / "shop", "--max_steps", 4, *TINY]
    options = [*map(str, options), "--push_to_hub", "--hub_model_id", "user/shop"]
    with pytest.raises(SystemExit, match="hub_strategy must be 'end', got 'every_save'"):
        main([*options, "--hub_strategy", "every_save", "--hub_token", TOKEN])
    with fake_hub() as hub:
        for owner, name, value in (
            (constants, "ENDPOINT", hub.url),
            (constants, "HF_HUB_OFFLINE", False),
            (constants, "HF_HUB_DISABLE_XET", True),
            (transformers.utils.hub, "_hf_api", None),
        ):
            monkeypatch.setattr(owner, name, value)
        main([*options, f"--hub_token={TOKEN}"])
        commits = hub.commits["user/shop"]
    assert [message for _, message, files in commits if files] == ["Upload recommender"]
    files = commits[-1][2]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert not any(TOKEN.encode() in content for content in files.values())
    assert "--hub_token=TOKEN\n" in files["README.md"].decode()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


@pytest.mark.parametrize("option", ["--hub_token", "--hub-token", "--hub_t"])
@pytest.mark.parametrize("form", ["{} secret", "{}=secret"])
def test_a_shown_command_has_no_token(option, form):
    shown = public_arguments(["--max_steps", "4", *form.format(option).split(), "--seed", "1"])
    assert "secret" not in shown and "TOKEN" in shown
    assert shown.startswith("--max_steps 4 ") and shown.endswith(" --seed 1")


def test_a_long_token_is_no_path():
    assert public_arguments(["--hub_token", 600 * "t"]) == "--hub_token TOKEN"
    assert public_arguments(["--item_column", 600 * "t"]) == f"--item_column {600 * 't'}"


def test_a_shown_command_has_no_folders_of_this_machine(tmp_path):
    (tmp_path / "shop").mkdir()
    shown = public_arguments([str(tmp_path / "shop" / "log.parquet"), "--output_dir", "runs/new", "a b"])
    assert shown == "shop/log.parquet --output_dir runs/new 'a b'"
