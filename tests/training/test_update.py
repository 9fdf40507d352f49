"""Updates of a served model: what is compared with what, what is decided, and what is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import sequences_of, times_of_users
from runs import SIZES, arguments, chains_log
from safetensors.torch import load_file
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.data import build_sequences, file_source
from hf_rec.serving.models import ModelSource, folder_version
from hf_rec.training import newest_splits, update_recommender
from hf_rec.training.update import UpdateFolder

OPTIONS = {"config": SIZES | {"is_decoder": True}, "max_length": 16}
STEPS = {"max_steps": 4, "num_train_epochs": None, "eval_strategy": "steps", "save_strategy": "steps"}
STEPS |= {"eval_steps": 2, "save_steps": 2, "logging_strategy": "no", "learning_rate": 1e-2}


def days() -> list[pa.Table]:
    """A log of three parts; in the last one there are new items and a new user."""
    log = chains_log(num_users=120)
    times = np.array(log["timestamp"]) * 1_000 + np.arange(len(log)) % 997
    log = log.set_column(2, "timestamp", pa.array(times))
    parts = [log.filter(pa.array((times >= start) & (times < start + 2_500))) for start in (0, 2_500, 5_000)]
    names = ["user_id", "item_id", "timestamp"]
    new = pa.table([["u0", "new", "new"], ["n1", "n2", "n1"], [7_400, 7_401, 7_402]], names)
    return [*parts[:2], pa.concat_tables([parts[2], new])]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inbox")
    for number, table in enumerate(days()):
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


def update(shop: Path, *files: Path, **options):
    args = arguments(shop, **STEPS | options.pop("changes", {}))
    return update_recommender([file_source(files)], args, **{"min_targets": 10} | OPTIONS | options)


def state_of(shop: Path) -> dict:
    return json.loads((shop / "state.json").read_text())


@pytest.fixture(scope="module")
def shop(inbox, tmp_path_factory):
    """A folder after three calls, and the updates of each."""
    folder = tmp_path_factory.mktemp("shops") / "shop"
    files = [inbox / f"{number}.parquet" for number in range(3)]
    calls = [update(folder, *files[: number + 1], tolerance=1.0) for number in range(3)]
    return folder, calls, files


def test_each_call_takes_trains_compares_and_serves(shop):
    folder, calls, _ = shop
    made = [update for call in calls for update in call]
    assert [update.number for update in made] == [1, 2, 3]
    assert [update.events for update in made] == np.cumsum([len(table) for table in days()]).tolist()
    assert made[0].served is None and all(update.served is not None for update in made[1:])
    assert [update.accepted for update in made] == [True] * 3
    assert made[0].start < made[1].start < made[2].start
    known = set(pa.concat_tables(days()[:2])["item_id"].to_pylist())
    assert made[2].new_items == len({*days()[2]["item_id"].to_pylist()} - known) > 2
    assert os.readlink(folder / "served") == "models/000003"
    assert [path.name for path in sorted((folder / "models").iterdir())] == ["000002", "000003"]
    assert not [*folder.glob("models/*/checkpoint-*")]
    assert state_of(folder)["pending"] is None and len(state_of(folder)["updates"]) == 3


def test_the_served_model_knows_the_new_items_and_answers(shop):
    folder, _, _ = shop
    vocabulary = ItemTokenizer.from_pretrained(str(folder / "served")).get_vocab()
    assert {"n1", "n2"} <= vocabulary.keys()
    assert len(pipeline("recommendation", model=str(folder / "served"))(["n1", "0-1"], top_k=5)) == 5


def test_a_call_without_new_events_changes_nothing(shop):
    folder, _, files = shop
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert update(folder, *files) == []
    assert {path: path.read_bytes() for path in before} == before


def test_a_model_that_is_worse_is_refused_and_the_events_are_compared_again(inbox, tmp_path):
    folder, files = tmp_path / "shop", [inbox / f"{number}.parquet" for number in range(3)]
    update(folder, files[0])
    served = folder_version(folder / "served")
    (refused,) = update(folder, *files[:2], tolerance=-2.0)  # a new model cannot be better by 2
    assert not refused.accepted and refused.candidate < refused.served + 2
    assert os.readlink(folder / "served") == "models/000001" and folder_version(folder / "served") == served
    assert [path.name for path in (folder / "models").iterdir()] == ["000001"]
    assert update(folder, *files[:2], tolerance=1.0) == []  # the same events, the same answer
    (accepted,) = update(folder, *files, tolerance=1.0)
    assert accepted.accepted and accepted.number == 3 and accepted.start > refused.start


def test_too_few_events_wait(inbox, tmp_path, caplog):
    folder, files = tmp_path / "shop", [inbox / f"{number}.parquet" for number in range(2)]
    update(folder, files[0])
    assert update(folder, *files, min_targets=10_000) == []
    assert "fewer than 10000" in caplog.text
    assert len(state_of(folder)["events"]["batches"]) == 2
    assert len(update(folder, *files)) == 1


@pytest.mark.slow
def test_a_given_model_is_served_at_once_and_updated_later(shop, inbox, tmp_path):
    given, folder = shop[0] / "models" / "000002", tmp_path / "shop"
    files = [inbox / f"{number}.parquet" for number in range(3)]
    (adopted,) = update(folder, *files[:2], model_name_or_path=str(given))
    assert adopted.number == 0 and adopted.candidate is None
    weights = [load_file(path / "model.safetensors") for path in (folder / "served", given)]
    assert all((weights[0][name] == tensor).all() for name, tensor in weights[1].items())
    (made,) = update(folder, *files, model_name_or_path=str(given), tolerance=1.0)
    assert made.number == 1 and made.served is not None


@pytest.mark.slow
def test_an_update_that_was_interrupted_is_completed_before_new_events_are_taken(inbox, tmp_path):
    folder, files = tmp_path / "shop", [inbox / f"{number}.parquet" for number in range(3)]
    update(folder, files[0])
    with pytest.raises(ValueError, match="learning_rate"):  # the plan is stored, the training fails
        update(folder, *files[:2], changes={"learning_rate": 1e38}, tolerance=1.0)
    assert state_of(folder)["pending"]["number"] == 2
    assert os.readlink(folder / "served") == "models/000001"
    again = update(folder, *files, changes={"overwrite_output_dir": True}, tolerance=1.0)
    assert [made.number for made in again] == [2, 3] and again[0].events < again[1].events


def test_the_link_follows_the_state(shop, tmp_path):
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-a", shop[0], folder], check=True)
    (folder / "served").unlink()
    (folder / "served").symlink_to("models/000002")
    (folder / ".served").symlink_to("nowhere")  # of a swap that was interrupted
    update(folder, *shop[2])
    assert os.readlink(folder / "served") == "models/000003" and not (folder / ".served").is_symlink()


def test_two_updates_at_once_are_an_error(shop):
    folder, _, files = shop
    with UpdateFolder(folder), pytest.raises(ValueError, match="another update works in"):
        update(folder, *files)


def test_wrong_calls_are_errors_that_say_what_to_do(shop, tmp_path):
    folder, _, files = shop
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for call, said in (
        (lambda: update(tmp_path, *files), "not the folder of updates"),
        (lambda: update(tmp_path / "new", tmp_path / "empty"), "the sources have no events"),
        (lambda: update(folder, *files, newest_share=1.0), "newest events must be above 0 and below 1"),
        (lambda: update(folder, *files, changes={"push_to_hub": True}), "push the served folder"),
        (lambda: update(folder, *files, columns=["country"]), r"keeps the columns \[\]"),
        (lambda: update(folder, *files, config={"is_decoder": False}), "is_decoder .True there, False here"),
        (lambda: update(folder, *files, log={"filter": "user_id != 'u0'"}), "reads events with {}, got {'filter'"),
        (lambda: update_recommender([file_source("s3://shop/log.parquet")], None), "files of this machine"),
        (lambda: update(folder, *files, max_length=99), "max_position_embeddings .* 99 here"),
        (lambda: update(folder, *files, request_columns=["hour"]), r"request_columns .*\['hour'\] here"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["notes.txt"]


@pytest.mark.slow
def test_a_server_picks_the_new_model_up(inbox, tmp_path):
    folder, files = tmp_path / "shop", [inbox / f"{number}.parquet" for number in range(2)]
    update(folder, files[0])
    source = ModelSource(folder / "served", top_k=5)
    before = source.current.version
    update(folder, *files, tolerance=1.0)
    assert folder_version(folder / "served") != before  # what --watch looks at
    assert source.reload().version != before


@given(times=times_of_users, start=st.integers(0, 10), seed=st.integers(0, 2))
@settings(max_examples=15)
def test_the_newest_events_test_what_the_others_train(times, start, seed):
    sequences = sequences_of(times)
    past = {f"u{user}": [time for time in row if time < start] for user, row in enumerate(times)}
    if not any(len(row) > 1 for row in past.values()):
        with pytest.raises(ValueError, match="no user has two events"):
            newest_splits(sequences, start, seed)
        return
    splits = newest_splits(sequences, start, seed)
    test = {row["user_id"]: (row["timestamps"], row["target_time"]) for row in splits["test"]}
    assert test == {
        user: (row, times[int(user[1:])][len(row)])
        for user, row in past.items()
        if row and len(row) < len(times[int(user[1:])])
    }
    validated = {row["user_id"]: [*row["timestamps"], row["target_time"]] for row in splits["validation"]}
    assert len(validated) == max(round(0.1 * sum(len(row) > 1 for row in past.values())), 1)
    assert all(past[user] == row for user, row in validated.items())
    train = {row["user_id"]: row["timestamps"] for row in splits["train"]}
    assert train == {user: row[:-1] if user in validated else row for user, row in past.items() if row}


def test_a_target_of_a_basket_has_the_baskets_before_it():
    sequences = sequences_of([[1, 1, 2, 2, 9, 9]], basket_ids=[[0, 0, 1, 1, 2, 2]])
    splits = newest_splits(sequences, 9)
    assert splits["test"].to_list()[0]["timestamps"] == [1, 1, 2, 2]
    assert splits["validation"].to_list()[0]["timestamps"] == splits["train"].to_list()[0]["timestamps"] == [1, 1]


def test_the_command_says_what_it_did(inbox, tmp_path, capsys):
    options = ["--max_steps", "4", "--hidden_size", "16", "--max_length", "16", "--use_cpu", "--min_targets", "10"]
    options += ["--disable_tqdm", "true", "--output_dir", str(tmp_path / "shop")]
    main(["update", "--events_file", str(inbox / "0.parquet"), *options])
    printed = capsys.readouterr().out
    assert "update 1: " in printed and "is served" in printed and f"Served: {tmp_path}/shop/served" in printed
    for wrong, said in (
        ([], "--events_file"),
        (["--kafka_topic", "events"], "--kafka_servers"),
        (["--events_file", "x", "--streaming"], "streaming"),
    ):
        with pytest.raises(SystemExit) as exit:
            main(["update", *wrong, *options])
        assert said in exit.value.code


@pytest.mark.slow
def test_an_update_that_is_killed_at_any_moment_goes_on(inbox, tmp_path):
    """Killed again and again, a little later each time, until it ends: the same model is served as without."""
    options = ["--max_steps", "40", "--eval_steps", "10", "--save_steps", "10", "--hidden_size", "16", "--use_cpu"]
    options += ["--max_length", "16", "--disable_tqdm", "true", "--min_targets", "10", "--tolerance", "1"]
    options += ["--gradient_accumulation_steps", "1", "--per_device_train_batch_size", "64", "--learning_rate", "0.01"]

    def call(folder: Path, files: int, seconds: float | None = None) -> bool:
        """Whether the command ended before it was killed."""
        events = [str(inbox / f"{number}.parquet") for number in range(files)]
        command = [sys.executable, "-m", "hf_rec.cli.main", "update", "--events_file", *events, *options]
        with open(os.devnull, "w") as null:
            child = subprocess.Popen([*command, "--output_dir", str(folder)], stdout=null, stderr=subprocess.PIPE)
        try:
            _, errors = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            return False
        assert child.returncode == 0, errors.decode()[-2000:]
        return True

    for files in (1, 2):
        start = time.perf_counter()
        call(tmp_path / "whole", files)
        duration = time.perf_counter() - start  # of a busy machine; the next calls may take half of it
        killed, after = 0, 0.3 * duration
        while not call(tmp_path / "killed", files, after):
            killed, after = killed + 1, after + 0.06 * duration
        assert killed
    whole, found = (state_of(tmp_path / name) for name in ("whole", "killed"))
    assert found["updates"] == whole["updates"] and len(found["updates"]) == 2
    weights = [load_file(tmp_path / name / "served" / "model.safetensors") for name in ("whole", "killed")]
    assert all((weights[0][name] == tensor).all() for name, tensor in weights[1].items())
    assert not [*(tmp_path / "killed").rglob(".0*")]


def test_sequences_of_a_whole_log_are_those_of_its_days(shop):
    folder = shop[0]
    events = [pq.read_table(file) for file in sorted((folder / "events").glob("*.parquet"))]
    found, expected = build_sequences(pa.concat_tables(events)), build_sequences(pa.concat_tables(days()))
    key = {row["user_id"]: row["item_ids"] for row in expected}
    assert {row["user_id"]: row["item_ids"] for row in found} == key
