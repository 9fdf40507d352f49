import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import small_model
from runs import SMALL, arguments, shop_splits
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.data.demo_log import shop_log
from hf_rec.hub.folder import save_recommender
from hf_rec.training.run import train_recommender


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log, its titles and a model of it that reads the hour."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = shop_log(num_users=120)
    pyarrow.parquet.write_table(log, folder / "log.parquet")
    pyarrow.parquet.write_table(items, folder / "items.parquet")
    args = arguments(folder / "model", num_train_epochs=1, learning_rate=0.1, warmup_steps=0)
    train_recommender(shop_splits(), args, request_columns=["hour"], **SMALL)
    return folder


@pytest.fixture
def recommend(shop, capsys):
    """The lines that the command prints."""

    def run(*options: object) -> list[dict]:
        capsys.readouterr()
        main(["recommend", "--model_name_or_path", str(shop / "model"), *map(str, options)])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def items_of(recommended: list[dict]) -> list[str]:
    return [entry["item_id"] for entry in recommended]


def test_a_history_gets_the_list_of_the_pipeline(shop, recommend):
    (line,) = recommend("--history", "sku-001", "sku-002", "--top_k", 3)
    expected = pipeline("recommendation", model=str(shop / "model"))(["sku-001", "sku-002"], top_k=3)
    assert line.keys() == {"recommended"}
    assert items_of(line["recommended"]) == items_of(expected)
    assert [entry["score"] for entry in line["recommended"]] == pytest.approx([entry["score"] for entry in expected])


def test_every_user_of_a_log_gets_a_list(shop, recommend):
    lines = recommend("--file", shop / "log.parquet")
    assert [line["user_id"] for line in lines] == [f"shopper-{user:04}" for user in range(120)]
    assert all(len(line["recommended"]) == 10 for line in lines)


def test_the_time_of_the_request_is_read(shop, recommend):
    requests = [json.dumps({"time": 2_000_000_000 + 3600 * hour}) for hour in (0, 9, 24)]
    times = [recommend("--file", shop / "log.parquet", "--request", request) for request in requests]
    assert times[0] == times[2] != times[1]
    assert recommend("--file", shop / "log.parquet") not in times


def test_titles_candidates_and_blocked_items(shop, recommend):
    titles = ["--titles_file", shop / "items.parquet"]
    (line,) = recommend("--history", "sku-001", "--candidates", "sku-003", "sku-004", "sku-005", *titles)
    assert sorted(items_of(line["recommended"])) == ["sku-003", "sku-004", "sku-005"]
    names = dict(zip(*(column.to_pylist() for column in shop_log(120)[1].columns[:2]), strict=True))
    assert all(entry["title"] == names[entry["item_id"]] for entry in line["recommended"])
    best = items_of(recommend("--history", "sku-001", "--top_k", 2)[0]["recommended"])
    assert (
        items_of(recommend("--history", "sku-001", "--top_k", 1, "--blocked", best[0])[0]["recommended"]) == best[1:]
    )


def test_seen_items_on_request(recommend):
    history = ["--history", "sku-001", "--candidates", "sku-001"]
    assert recommend(*history) == [{"recommended": []}]
    assert items_of(recommend(*history, "--include_seen")[0]["recommended"]) == ["sku-001"]


def test_ids_may_be_one_json_list(recommend):
    expected = recommend("--history", "sku-001", "-2")
    assert recommend("--history", '["sku-001", "-2"]') == expected


def test_a_history_may_be_a_json_object_with_columns(recommend):
    history = json.dumps({"item_ids": ["sku-001"], "timestamps": [0], "request": {"time": 3600 * 9}})
    timed = recommend("--history", "sku-001", "--request", json.dumps({"time": 3600 * 9}))
    assert recommend("--history", history) != recommend("--history", "sku-001") != timed
    # what --request says comes beside what the history says itself
    assert recommend("--history", history, "--request", "{}") == recommend("--history", history)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--history", "tea", "pot"], "none of the 2 items of the history, such as 'tea', is in the catalogue"),
        (["--history", "[1, 2]"], "got 1|string"),
        (["--history", "sku-001", "--candidates", "tea"], "none of the 1 items of --candidates"),
        (["--file", "OTHER"], "none of the 2 events of the log, such as 'tea'"),
        (["--history", "sku-001", "--filter", "x > 1"], r"\['--filter'\] are options of a log"),
        (["--history", "sku-001", "--part_size", "7"], "--part_size is of --output_file"),
        (["--history", "sku-001", "--title_column", "name"], "--title_column needs --titles_file"),
        (["--history", "sku-001", "--titles_file", "TWICE"], "items with several rows"),
    ],
)
def test_what_would_not_be_read_is_refused(recommend, tmp_path, options, message):
    tables = {
        "OTHER": {"user_id": ["u", "u"], "item_id": ["tea", "pot"], "timestamp": [1, 2]},
        "TWICE": {"item_id": ["sku-001", "sku-001"], "title": ["Tea", "Pot"]},
    }
    for name, columns in tables.items():
        pyarrow.parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    options = [tmp_path / f"{option}.parquet" if option in tables else option for option in options]
    with pytest.raises(SystemExit, match=message):
        recommend(*options)


def test_unknown_items_among_others_are_counted(recommend, caplog):
    assert recommend("--history", "tea", "sku-001") == recommend("--history", "sku-001")
    assert "1 of 2 items of the history, such as 'tea', are not in the catalogue" in caplog.text


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("cp1252", r"\u0436\u001b"),
        pytest.param("utf-8", r"ж\u001b", marks=pytest.mark.slow),
    ],
)
def test_ids_are_printed_in_any_encoding_and_control_characters_escaped(tmp_path, encoding, shown):
    tokenizer = ItemTokenizer.from_items(["tea", "ж\x1b[2J"])
    save_recommender(tmp_path / "model", small_model(len(tokenizer), is_decoder=True), tokenizer)
    command = [sys.executable, "-m", "hf_rec.cli.main", "recommend", "--model_name_or_path", tmp_path / "model"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    printed = subprocess.run(
        [*command, "--history", "tea"], env=environment, check=True, stdout=subprocess.PIPE
    ).stdout
    assert b"\x1b" not in printed and shown in printed.decode(encoding)
    assert items_of(json.loads(printed.decode(encoding))["recommended"]) == ["ж\x1b[2J"]
