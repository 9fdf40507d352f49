"""`hf-rec recommend --engine spark`: the lists of a cluster are those of this process."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import small_model
from rule_worlds import item_columns

from hf_rec import Feature, ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.data.demo_log import shop_log
from hf_rec.hub.folder import save_recommender
from hf_rec.prepare import prepare_sequences
from hf_rec.serving.onnx import export_recommender

pytest.importorskip("pyspark", reason="needs pip install 'hf_rec[spark]'")
if not shutil.which("java"):
    pytest.skip("needs Java, as openjdk-17-jre-headless", allow_module_level=True)

from hf_rec.data.spark import spark_session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log of 60 users, its sequences, and an export with titles that reads times and countries."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = shop_log(num_users=60)
    countries = [("fr", "at", None)[number % 3] for number in range(len(log))]
    log = log.append_column("country", pa.array(countries))
    pq.write_table(log, folder / "log.parquet")
    prepare_sequences(folder / "log.parquet", folder / "sequences", num_shards=3, event_columns=["country"])
    tokenizer = ItemTokenizer.from_items(items["item_id"].to_pylist(), max_length=8)
    features = [
        Feature("time_gap", "time_gap", at="request"),
        Feature("country", "category", at="event", values=["fr", "at"]),
    ]
    model = small_model(len(tokenizer), is_decoder=True, features=features)
    model.item_columns = item_columns(len(tokenizer))
    save_recommender(folder / "model", model, tokenizer)
    export_recommender(folder / "model", folder / "export", top_k=10)
    return folder


@pytest.fixture(scope="module", autouse=True)
def session():
    """A session on two cores, which the calls find running."""
    with spark_session("local[2]", batch_size=7) as session:
        yield session


def command(shop, file: str, output_file, *options: str) -> list[str]:
    given = {"model_name_or_path": shop / "export", "file": shop / file, "output_file": output_file}
    return ["recommend", *(str(word) for name, value in given.items() for word in (f"--{name}", value)), *options]


def lists_of(path) -> dict[str, list[dict]]:
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    else:
        lines = [line for file in path.glob("part-*") for line in file.read_text(encoding="utf-8").splitlines()]
        rows = [json.loads(line) for line in lines]
    assert len(rows) == len({row["user_id"] for row in rows})
    return {row["user_id"]: row["recommended"] for row in rows}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_the_lists_of_workers_are_those_of_this_process(shop, tmp_path, suffix):
    request = ["--top_k", "4", "--request", json.dumps({"time": 2_000_000_000})]
    main(command(shop, "log.parquet", tmp_path / "here.parquet", *request))
    main(command(shop, "sequences", tmp_path / f"there.{suffix}", *request, "--engine", "spark"))
    here, there = lists_of(tmp_path / "here.parquet"), lists_of(tmp_path / f"there.{suffix}")
    assert here.keys() == there.keys() and len(here) == 60
    for user, entries in here.items():
        assert there[user] == [entry | {"score": pytest.approx(entry["score"], abs=1e-4)} for entry in entries]
        assert len(entries) == 4 and all(entry["title"] for entry in entries)


def test_an_output_that_exists_stays_and_an_interrupted_one_is_done_again(shop, tmp_path):
    (tmp_path / "lists.parquet" / "_temporary").mkdir(parents=True)
    main(command(shop, "sequences", tmp_path / "lists.parquet", "--engine", "spark"))
    files = sorted((tmp_path / "lists.parquet").iterdir())
    assert len(lists_of(tmp_path / "lists.parquet")) == 60
    with pytest.raises(SystemExit, match=r"lists\.parquet exists; remove it"):
        main(command(shop, "sequences", tmp_path / "lists.parquet", "--engine", "spark"))
    assert sorted((tmp_path / "lists.parquet").iterdir()) == files


def test_a_log_and_an_unfinished_folder_are_refused(shop, tmp_path):
    with pytest.raises(SystemExit, match=r"no column \['item_ids', 'timestamps'\].*hf-rec prepare"):
        main(command(shop, "log.parquet", tmp_path / "lists.parquet", "--engine", "spark"))
    with pytest.raises(SystemExit, match=r"\['filter'\] are options for a log"):
        main(command(shop, "sequences", tmp_path / "lists.parquet", "--engine", "spark", "--filter", "1 = 1"))
    shutil.copytree(shop / "sequences", tmp_path / "half")
    (tmp_path / "half" / "prepare.json").unlink()
    (tmp_path / "half" / ".prepare").mkdir()
    given = command(shop, "sequences", tmp_path / "lists.parquet", "--engine", "spark")
    given[given.index("--file") + 1] = str(tmp_path / "half")
    with pytest.raises(SystemExit, match="half is not complete; repeat the call"):
        main(given)
    assert not (tmp_path / "lists.parquet").exists()
