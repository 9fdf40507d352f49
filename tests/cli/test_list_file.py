"""`hf-rec recommend --output_file`: lists of all users in a file, also after an interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import small_model
from filelock import FileLock
from rule_worlds import item_columns
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.data.demo_log import shop_log
from hf_rec.hub.folder import save_recommender
from hf_rec.serving.onnx import export_recommender


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log of 60 users and a model with titles."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = shop_log(num_users=60)
    pq.write_table(log, folder / "log.parquet")
    tokenizer = ItemTokenizer.from_items(items["item_id"].to_pylist(), max_length=8)
    model = small_model(len(tokenizer), is_decoder=True)
    model.item_columns = item_columns(len(tokenizer))
    save_recommender(folder / "model", model, tokenizer)
    return folder


def command(shop, output_file, *options, model="model") -> list[str]:
    given = {"model_name_or_path": shop / model, "file": shop / "log.parquet", "output_file": output_file}
    parts = [] if "--part_size" in options else ["--part_size", "7"]
    return [
        "recommend",
        *(str(word) for name, value in given.items() for word in (f"--{name}", value)),
        *parts,
        *options,
    ]


def rows_of(file: Path) -> list[dict]:
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_file_has_the_printed_lists(shop, tmp_path, capsys, suffix):
    main(command(shop, tmp_path / f"lists.{suffix}", "--top_k", "3"))
    rows = rows_of(tmp_path / f"lists.{suffix}")
    capsys.readouterr()
    main(
        ["recommend", "--model_name_or_path", str(shop / "model"), "--file", str(shop / "log.parquet"), "--top_k", "3"]
    )
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["user_id"] for row in rows] == [f"shopper-{user:04}" for user in range(60)]
    assert rows == [
        row
        | {"recommended": [entry | {"score": pytest.approx(entry["score"], abs=1e-5)} for entry in row["recommended"]]}
        for row in printed
    ]
    assert all(entry["title"] for row in rows for entry in row["recommended"])
    assert [path.name for path in tmp_path.iterdir()] == [f"lists.{suffix}"]


def interrupt_after(parts: int, monkeypatch) -> None:
    """Break the writing of a file off once so many parts are there."""
    from hf_rec.cli.parts import PartsFile

    write, written = PartsFile.write_rows, []

    def write_some(self, stream, rows):
        if len(written) == parts:
            stream.write(b"half")
            raise OSError("no space left on device")
        written.append(rows)
        write(self, stream, rows)

    monkeypatch.setattr(PartsFile, "write_rows", write_some)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("parts", [0, 3])
def test_an_interrupted_run_goes_on_and_gives_the_same_file(shop, tmp_path, monkeypatch, suffix, parts):
    whole, broken = tmp_path / f"whole.{suffix}", tmp_path / f"broken.{suffix}"
    main(command(shop, whole))
    with monkeypatch.context() as patch:
        interrupt_after(parts, patch)
        with pytest.raises(SystemExit, match="no space left"):
            main(command(shop, broken))
    assert not broken.exists()
    done = sorted((tmp_path / f"{broken.name}.parts").glob("part-*"))
    assert len(done) == parts
    times = [file.stat().st_mtime_ns for file in done]
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(SystemExit, match="no space left"):
            main(command(shop, broken))
    assert [file.stat().st_mtime_ns for file in done] == times  # they are not computed again
    main(command(shop, broken))
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([whole.name, broken.name])


def test_parts_of_another_run_are_refused(shop, tmp_path, monkeypatch):
    file = tmp_path / "lists.jsonl"
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(SystemExit):
            main(command(shop, file))
    tokenizer = ItemTokenizer.from_pretrained(shop / "model")
    torch.manual_seed(1)
    model = small_model(len(tokenizer), is_decoder=True)
    torch.nn.init.normal_(model.scores.bias)
    save_recommender(tmp_path / "other", model, tokenizer)
    log = pq.read_table(shop / "log.parquet")
    pq.write_table(log.slice(0, len(log) - 1), tmp_path / "shorter.parquet")
    for options, named in (
        (["--top_k", "3"], r"options\.top_k \(10 there, 3 here\)"),
        (["--blocked", "sku-001"], r"options\.blocked"),
        (["--part_size", "8"], r"options\.part_size \(7 there, 8 here\)"),
        (["--model_name_or_path", str(tmp_path / "other")], r"model\.item_columns .* model\.weights"),
        (["--file", str(tmp_path / "shorter.parquet")], r"log \("),
    ):
        with pytest.raises(SystemExit, match=named):
            main(command(shop, file, *options))
    assert len(list((tmp_path / "lists.jsonl.parts").glob("part-*"))) == 2
    main(command(shop, file))
    assert len(rows_of(file)) == 60


def test_a_file_that_exists_another_suffix_and_a_second_run_are_refused(shop, tmp_path):
    (tmp_path / "lists.jsonl").write_text("precious")
    with pytest.raises(SystemExit, match=r"lists\.jsonl exists"):
        main(command(shop, tmp_path / "lists.jsonl"))
    assert (tmp_path / "lists.jsonl").read_text() == "precious"
    with pytest.raises(SystemExit, match=r"ends in one of .*lists\.csv"):
        main(command(shop, tmp_path / "lists.csv"))
    (tmp_path / "new.jsonl.parts").mkdir()
    with FileLock(tmp_path / "new.jsonl.parts" / ".lock"), pytest.raises(SystemExit, match="another run writes"):
        main(command(shop, tmp_path / "new.jsonl"))
    with pytest.raises(SystemExit, match="--output_file needs --file"):
        main(["recommend", "--model_name_or_path", "x", "--history", "a", "--output_file", "lists.jsonl"])


def test_rules_that_depend_on_the_time_need_one(shop, tmp_path):
    rules = tmp_path / "rules.json"
    window = {"rule": "boost", "where": {"items": ["sku-001"]}, "add": 100, "when": {"hours": [9, 12]}}
    rules.write_text(json.dumps([window]))
    options = ["--rules_file", str(rules), "--explain_rules", "--top_k", "1", "--include_seen"]
    with pytest.raises(SystemExit, match="the rules depend on the time"):
        main(command(shop, tmp_path / "lists.parquet", *options))
    main(command(shop, tmp_path / "lists.parquet", *options, "--request", '{"time": 36000}'))
    entries = [row["recommended"][0] for row in rows_of(tmp_path / "lists.parquet")]
    assert {entry["item_id"] for entry in entries} == {"sku-001"}
    assert {tuple(entry["rules"]) for entry in entries} == {("boost 1",)}


@pytest.mark.slow
def test_an_export_writes_the_lists_of_its_pipeline(shop, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_recommender(shop / "model", shop / "onnx")
    files = [tmp_path / f"{name}.parquet" for name in ("model", "onnx")]
    for file in files:
        main(command(shop, file, model=file.stem))
    lists = [[[entry["item_id"] for entry in row["recommended"]] for row in rows_of(file)] for file in files]
    assert lists[0] == lists[1]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_run_that_was_killed_goes_on_and_gives_the_same_file(shop, tmp_path, suffix):
    whole, killed = tmp_path / f"whole.{suffix}", tmp_path / f"killed.{suffix}"
    options = ["--part_size", "1"]
    main(command(shop, whole, *options))
    parts = tmp_path / f"{killed.name}.parts"
    process = subprocess.Popen([sys.executable, "-m", "hf_rec.cli.main", *command(shop, killed, *options)])
    while len(list(parts.glob("part-*"))) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(parts.glob("part-*")))
    assert 3 <= done < 60 and not killed.exists()
    main(command(shop, killed, *options))
    assert killed.read_bytes() == whole.read_bytes()
    assert len(rows_of(killed)) == 60 and not parts.exists()


@pytest.mark.slow
def test_the_lists_of_a_real_log_are_those_of_the_pipeline(shop, tmp_path, real_data):
    log = pq.read_table(real_data / "ml-100k" / "interactions.parquet")
    items = sorted({str(item) for item in log["item_id"].to_pylist()})
    tokenizer = ItemTokenizer.from_items(items, max_length=8)
    save_recommender(tmp_path / "model", small_model(len(tokenizer), is_decoder=True), tokenizer)
    main(
        command(
            shop,
            tmp_path / "lists.parquet",
            "--part_size",
            "300",
            "--model_name_or_path",
            str(tmp_path / "model"),
            "--file",
            str(real_data / "ml-100k" / "interactions.parquet"),
        )
    )
    rows = rows_of(tmp_path / "lists.parquet")
    assert len(rows) == 943
    recommend, histories = pipeline("recommendation", model=str(tmp_path / "model")), {}
    times = log["timestamp" if "timestamp" in log.column_names else "position"].to_pylist()
    order = sorted(range(len(log)), key=times.__getitem__)
    users, ids = log["user_id"].to_pylist(), log["item_id"].to_pylist()
    for row in order:
        histories.setdefault(str(users[row]), []).append(str(ids[row]))
    for row in rows[::100]:
        expected = recommend(histories[row["user_id"]])
        assert [entry["item_id"] for entry in row["recommended"]] == [entry["item_id"] for entry in expected]
