import csv

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import FRAME, LOG, SEQUENCES, slow_sequences, write_log

from hf_rec.data.files import read_table
from hf_rec.data.sequences import build_sequences, load_preset
from hf_rec.data.sources import PRESETS, load_log

TEXT = {"user_id": pl.String, "item_id": pl.String}
NAMES = ("a.parquet", "a.csv", "b.2020.CSV", "a.tsv", "a.csv.gz", "a.tsv.gz", "a.json", "a.jsonl.gz")
SOURCES = {
    **{name: lambda folder, name=name: write_log(folder / name) for name in NAMES},
    "text": lambda folder: str(write_log(folder / "a.csv")),
    "quotes": lambda folder: write_log(folder / "a.csv", quoting=csv.QUOTE_ALL),
    "dataset": lambda _: Dataset.from_dict(LOG),
    "selected dataset": lambda _: Dataset.from_pandas(FRAME[::-1]).select([4, 3, 2, 1, 0]),
    "numpy dataset": lambda _: Dataset.from_dict(LOG).with_format("numpy"),
    "arrow": lambda _: pa.table(LOG),
    "chunks": lambda _: pa.concat_tables([pa.table(LOG)[:2], pa.table(LOG)[:0], pa.table(LOG)[2:]]),
    "pandas": lambda _: pd.DataFrame(LOG, index=[5, 1, 1, 0, 2]),
    "pandas categories": lambda _: FRAME.astype({"item_id": "category", "timestamp": "Int64"}),
    "pandas, unused column": lambda _: FRAME.assign(note=pd.Series(["a", 1, None, 2.5, {}], dtype=object)),
    "polars": lambda _: pl.DataFrame(LOG),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_the_same_sequences(tmp_path, source):
    sequences = build_sequences(source(tmp_path))
    assert sequences.column_names == ["user_id", "item_ids", "timestamps"]
    assert sequences.to_list() == SEQUENCES


@given(st.lists(st.text(min_size=1, max_size=5) | st.just("x" * 10_000), min_size=1), st.sampled_from(["csv", "json"]))
@settings(max_examples=20)
def test_any_id_survives_a_file(tmp_path_factory, items, suffix):
    frame = pd.DataFrame({"user_id": "é\n", "item_id": items, "timestamp": range(len(items))})
    path = write_log(tmp_path_factory.mktemp("ids") / f"log.{suffix}", frame, quoting=csv.QUOTE_ALL)
    assert build_sequences(path)[0] == {"user_id": "é\n", "item_ids": items, "timestamps": list(range(len(items)))}


ids_or_none = (
    st.text(max_size=3).filter(lambda text: not text.endswith(".0"))
    | st.sampled_from(["1", "01", "NaN", "null", "2024-01-01", "-"])
    | st.none()
)
any_rows = st.lists(st.tuples(ids_or_none, ids_or_none, st.integers(-(2**53), 2**53)), min_size=1, max_size=30)
ANY_FORMAT = st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "pandas", "polars", "arrow"])


def check_any_table(folder, rows: list[tuple], form: str) -> None:
    """A random table, through a file or a library, gives the sequences of the slow way."""
    frame = pd.DataFrame(rows, columns=[*LOG]).astype({"user_id": object, "item_id": object})
    if form == "polars":
        table = pl.DataFrame(
            dict(zip(LOG, zip(*rows, strict=True), strict=True)), schema={**TEXT, "timestamp": pl.Int64}
        )
    elif form in ("pandas", "arrow"):
        table = frame if form == "pandas" else pa.Table.from_pandas(frame)
    else:
        table = write_log(folder / form, frame, **({"quoting": csv.QUOTE_ALL} if "sv" in form else {}))
    if expected := slow_sequences(rows, 1, 1):
        assert build_sequences(table).to_list() == expected
    else:
        with pytest.raises(ValueError, match=f"nothing is left of {len(rows)} rows"):
            build_sequences(table)


@given(any_rows, ANY_FORMAT)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_gives_the_sequences_of_a_slow_way(tmp_path, rows, form):
    check_any_table(tmp_path, rows, form)


@pytest.mark.slow
@given(any_rows, ANY_FORMAT)
@settings(max_examples=3_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_tables_give_the_sequences_of_a_slow_way(tmp_path, rows, form):
    check_any_table(tmp_path, rows, form)


def test_ids_in_a_csv_stay_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("who,what,when\n007,01,3\n007,1.0,2\n007,1,1\n")
    sequences = build_sequences(tmp_path / "a.csv", "who", "what", "when")
    assert sequences.to_dict() == {"user_id": ["007"], "item_ids": [["1", "1.0", "01"]], "timestamps": [[1, 2, 3]]}


def test_ids_with_newlines_survive_a_csv_that_is_read_in_blocks(tmp_path):
    items = [f"{number}\n,\n{number}\n" for number in range(100_000)]
    frame = pd.DataFrame({"user_id": "u", "item_id": items, "timestamp": 0})
    assert build_sequences(write_log(tmp_path / "a.csv", frame))["item_ids"][0] == items


@pytest.mark.parametrize(
    ("interactions", "error", "message"),
    [
        (pa.table(LOG)[:0], ValueError, "the table of interactions is empty"),
        (pa.table(LOG).drop(["timestamp"]), ValueError, r"no column \['timestamp'\]"),
        (FRAME.assign(item_id=pd.Series([*"abcd", 17], dtype=object)), TypeError, "'item_id'.*one type.*17"),
        (FRAME.assign(timestamp=pd.Series([1, 2, 3, 4, "x"], dtype=object)), TypeError, "'timestamp'.*one type.*'x'"),
        (pa.table(LOG).to_pylist(), TypeError, "an Arrow, pandas or Polars table, got list"),
        (DatasetDict(train=Dataset.from_dict(LOG)), TypeError, "a datasets.Dataset, or .*, got DatasetDict"),
        (pa.table(LOG).to_batches()[0], TypeError, "an Arrow, pandas or Polars table, got RecordBatch"),
    ],
)
def test_bad_tables_are_refused_with_a_reason(interactions, error, message):
    with pytest.raises(error, match=message):
        build_sequences(interactions)


HEADER = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.xls", HEADER, ValueError, r"cannot tell the format of .*a\.xls.*\.csv.*\.parquet"),
        ("a.csv", HEADER, ValueError, "the table of interactions is empty"),
        ("a.csv", HEADER.replace(",", ";"), ValueError, r"no column .*which has \['user_id;item_id;timestamp'\]"),
        ("a.csv", HEADER + "u,a,1\nu,b,\n", ValueError, "'timestamp': 1 of 2 times are missing"),
        ("a.csv", HEADER + "u,a,soon\n", ValueError, "'timestamp'.*'soon'.*time_format"),
        ("a.csv", "", ValueError, r"a\.csv.*[Ee]mpty"),
        ("a.csv", HEADER + "u,a,1\nu,b,c,2\n", ValueError, r"a\.csv.*Expected 3 columns, got 4"),
        ("a.parquet", HEADER, ValueError, r"a\.parquet"),
        ("a.jsonl", '{"user_id": "u", "item_id": 1.5, "timestamp": 1}', TypeError, "'item_id'.*1[.]5"),
        ("a.jsonl", '{"item_id": "a"}\n{"item_id": 17}', ValueError, r"a\.jsonl.*item_id.* string to number in row 1"),
        ("a.json", '[{"user_id": "u", "item_id": "a", "timestamp": 1}]', ValueError, r"a\.json.*array"),
    ],
)
def test_bad_files_are_refused_with_a_reason(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=f"(?s){message}"):
        build_sequences(tmp_path / name)


def test_only_id_columns_of_a_csv_are_read_as_text(tmp_path):
    table = read_table(write_log(tmp_path / "a.csv"), ["user_id"])
    assert [str(type_) for type_ in table.schema.types] == ["large_string", "string", "int64"]
    assert read_table(tmp_path / "a.csv")["item_id"].to_pylist() == LOG["item_id"]


@pytest.mark.parametrize("name", ["none.csv", ""])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path / name}$"):
        build_sequences(tmp_path / name)


FIVES = [(user, item) for user in range(5) for item in range(5)]  # enough for the minimum counts of the presets
FIVE_USERS = dict.fromkeys("01234", ["4", "3", "2", "1", "0"])
AMAZON = "".join(f"A{user},020561646{item},5.0,{item}\n" for user, item in FIVES)
OFFICIAL = {
    "ml-100k": ("9\t242\t3\t20\n8\t302\t3\t15\n9\t1\t3\t10\n", {"9": ["1", "242"], "8": ["302"]}),
    "ml-1m": ("".join(f"{u}::{i}::5::{9 - i}\n" for u, i in FIVES) + "1::77::5::1\n", FIVE_USERS),
    "ml-20m": (
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},0.5,{9 - i}\n" for u, i in FIVES) + "7,1,5,1\n",
        FIVE_USERS,
    ),
    "amazon-beauty": (AMAZON, {f"A{user}": [f"020561646{item}" for item in range(5)] for user in range(5)}),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_presets_read_the_official_formats(tmp_path, monkeypatch, name):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    text, expected = OFFICIAL[name]
    (tmp_path / "official").write_text(text)
    sequences = load_preset(name, data_files=str(tmp_path / "official"))
    assert dict(zip(sequences["user_id"], sequences["item_ids"], strict=True)) == expected
    with pytest.raises(ValueError, match="items with 9 interactions remain"):
        load_preset(name, data_files=str(tmp_path / "official"), min_item_count=9)


def test_presets_keep_columns_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert OFFICIAL.keys() == PRESETS.keys()
    (tmp_path / "official").write_text(OFFICIAL["ml-100k"][0])
    sequences = load_preset("ml-100k", data_files=str(tmp_path / "official"), event_columns=["rating"])
    assert sequences["rating"][:] == [[3.0, 3.0], [3.0]]


@pytest.mark.parametrize("load", [load_preset, load_log])
def test_an_unknown_preset_is_refused(load):
    with pytest.raises(ValueError, match="no preset 'ml-2m'; there are .*'ml-1m'"):
        load("ml-2m")
