import decimal
import gzip
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_rec.data import TableFiles, build_sequences, read_table
from hf_rec.data.columns import id_strings, parse_times, whole_times

HEADER = "user_id,item_id,timestamp"


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str | bytes) -> Path:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write_file


def items(*args, **kwargs) -> list[list[str]]:
    return build_sequences(*args, **kwargs)["item_ids"][:]


def test_an_unclosed_quote_is_an_error_that_names_its_line(write):
    path = write("log.csv", f'{HEADER},title\nu,a,1,"12 inch\nu,b,2,x\n')
    with pytest.raises(ValueError, match=r"log\.csv.*not closed.*line 2"):
        read_table(path)


def test_lines_inside_quotes_are_counted(write, caplog):
    assert items(write("log.csv", f'{HEADER},title\nu,a,1,"one\ntwo"\nu,b,2,x\n')) == [["a", "b"]]
    assert "1 lines" in caplog.text


def test_ids_that_were_written_as_fractions_are_whole_numbers_in_every_format(write, tmp_path):
    text = write("log.csv", f"{HEADER}\nu,10.0,1\nu,11.0,2\n")
    pa.parquet.write_table(
        pa.table({"user_id": ["u", "u"], "item_id": [10.0, 11.0], "timestamp": [1, 2]}), tmp_path / "log.parquet"
    )
    assert items(text) == items(tmp_path / "log.parquet") == [["10", "11"]]
    assert items(write("versions.csv", f"{HEADER}\nu,10.0,1\nu,10.1,2\n")) == [["10.0", "10.1"]]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([decimal.Decimal("10.0"), decimal.Decimal("3")]), ["10", "3"]),
        (pa.array([uuid.UUID(int=5).bytes, None], pa.uuid()), ["00000000-0000-0000-0000-000000000005", None]),
        (pa.array(["a", ""], pa.string_view()), ["a", None]),
        (pa.array([b"ab"]), ["ab"]),
        (pa.array([2.0**24 - 1], pa.float32()), ["16777215"]),
        (pa.array([2.0**53 - 1]), ["9007199254740991"]),
    ],
)
def test_ids_of_any_type_are_exact_strings(ids, expected):
    assert id_strings(ids).to_pylist() == expected


@pytest.mark.parametrize(
    "ids", [pa.array([2.0**24], pa.float32()), pa.array([decimal.Decimal("1.5")]), pa.array([b"\xff"])], ids=str
)
def test_ids_that_are_not_exact_are_refused(ids):
    with pytest.raises(TypeError, match="ids are strings or integers"):
        id_strings(ids)


def test_folders_patterns_and_lists_of_files_are_one_table(tmp_path):
    for number in range(3):
        part = pa.table({"user_id": ["u"], "item_id": [number], "timestamp": [number]})
        pa.parquet.write_table(part, tmp_path / f"part-{number}.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    assert items(tmp_path) == items(str(tmp_path / "part-*.parquet")) == [["0", "1", "2"]]
    assert items([tmp_path / "part-0.parquet", tmp_path / "part-2.parquet"]) == [["0", "2"]]


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("log.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\nu\tb\t2\n", {}),
        ("log.dat", "u::a::1\nu::b::2\n", {"column_names": ["user_id", "item_id", "timestamp"]}),
        ("log.txt", f"{HEADER.replace(',', ';')}\nu;a;1\nu;b;2\n", {"delimiter": ";"}),
        ("log.csv", "u,a,1\nu,b,2\n", {"column_names": ["user_id", "item_id", "timestamp"]}),
        ("log.csv", f"\ufeff{HEADER}\nu,a,1\nu,b,2\n", {}),
        ("log.csv.gz", gzip.compress(f"{HEADER}\nu,a,1\nu,b,2\n".encode(), mtime=0), {}),
    ],
)
def test_delimited_files_of_other_libraries_are_read(write, name, text, options):
    assert items(TableFiles(write(name, text), **options)) == [["a", "b"]]


def test_only_the_columns_that_are_needed_are_read(write):
    path = write("log.csv", f"{HEADER},text\nu,a,1,7\nu,b,2,seven\n")
    assert read_table(path, columns={"user_id", "item_id"}).column_names == ["user_id", "item_id"]
    broken = write("broken.csv", b"user_id,item_id,timestamp,text\nu,a,1,caf\xe9\n")
    assert items(broken) == [["a"]]
    with pytest.raises(ValueError, match=r"broken\.csv.*'text'.*UTF-8"):
        build_sequences(broken, event_columns=["text"])


def test_ids_in_json_stay_strings_even_if_they_look_like_times(write):
    rows = '{"user_id":"2024-01-01","item_id":"007","timestamp":1}\n'
    assert build_sequences(write("log.jsonl", rows))[0]["user_id"] == "2024-01-01"
    assert items(write("numbers.jsonl", '{"user_id":1,"item_id":7,"timestamp":1}\n')) == [["7"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("twice.csv", f"{HEADER},item_id\nu,a,1,2\n", r"twice\.csv.*\['item_id'\]"),
        ("cut.csv.gz", gzip.compress(np.random.default_rng(0).bytes(9_999), mtime=0)[:500], r"cut\.csv\.gz"),
        ("empty.csv", "", r"empty\.csv"),
        ("log.xyz", "a", r"log\.xyz.*\.parquet"),
        ("log.dat", "1::2::3\n", "column_names"),
    ],
)
def test_damaged_files_are_errors_with_their_name(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        build_sequences(write(name, content))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (["2019-10-01 00:00:00 UTC", "2019-10-01 00:00:01 UTC"], [1569888000, 1569888001]),
        (["2024-01-01T10:00:00.000Z", "2024-01-01T12:00:00+02:00"], [1704103200, 1704103200]),
        (["12/1/2010 8:26", "12/13/2010 8:26"], [1291191960, 1292228760]),
        (["13.12.2010", "14.12.2010"], [1292198400, 1292284800]),
    ],
)
def test_times_are_read_as_people_write_them(written, seconds):
    times = parse_times(pa.array(written), "when")
    assert whole_times(times, "when").tolist() == seconds


def test_a_day_that_may_be_a_month_needs_a_format():
    column = pa.array(["12/1/2010 8:26", "12/3/2010 8:26"])
    with pytest.raises(ValueError, match=r"when.*%m/%d/%Y.*%d/%m/%Y.*time_format"):
        parse_times(column, "when")
    assert [time.month for time in parse_times(column, "when", "%d/%m/%Y %H:%M").to_pylist()] == [1, 3]
    with pytest.raises(ValueError, match=r"when.*12/1/2010.*time_format"):
        parse_times(column, "when", "%Y")


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("uv"), st.text('ab" ,\n;é', min_size=1, max_size=4), st.integers(0, 9)), min_size=1
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_the_standard_library_writes_is_read_as_it_reads_it(tmp_path, rows):
    import csv

    path = tmp_path / "log.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER.split(","), *rows])
    with open(path, newline="", encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    table = read_table(path).to_pylist()
    assert [(row["user_id"], row["item_id"], str(row["timestamp"])) for row in table] == [
        (row["user_id"], row["item_id"], row["timestamp"]) for row in expected
    ]


@pytest.mark.parametrize(("kind", "rows"), [("csv", "u,a,31012024\nu,b,01022024\nu,c,02022024\n"), ("jsonl", None)])
def test_times_that_look_like_numbers_are_read_in_their_format(write, kind, rows):
    """As numbers, the last days of January would come after the first ones of February."""
    if kind == "jsonl":
        rows = "".join(
            f'{{"user_id": "u", "item_id": "{item}", "timestamp": "{time}"}}\n'
            for item, time in zip("abc", ("31012024", "01022024", "02022024"), strict=True)
        )
    file = write(f"log.{kind}", (HEADER + "\n" if kind == "csv" else "") + rows)
    assert items(file, time_format="%d%m%Y") == [["a", "b", "c"]]


def test_a_format_of_times_that_are_no_text_is_an_error(tmp_path):
    pyarrow.parquet.write_table(
        pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [31012024]}), tmp_path / "log.parquet"
    )
    with pytest.raises(ValueError, match="'timestamp': '%d%m%Y' reads times that are text, and these are int64"):
        build_sequences(tmp_path / "log.parquet", time_format="%d%m%Y")


def test_a_column_that_a_later_file_lacks_is_an_error(tmp_path):
    for number, name in enumerate(("price", "Price")):
        pyarrow.parquet.write_table(pa.table({"item_id": ["a"], name: [1.0]}), tmp_path / f"{number}.parquet")
    with pytest.raises(ValueError, match=r"1\.parquet.*no column \['price'\]; the first file has it"):
        read_table([str(tmp_path / "0.parquet"), str(tmp_path / "1.parquet")])
