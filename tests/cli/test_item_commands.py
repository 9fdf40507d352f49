"""Items with content, from the command line to the list."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from runs import country_log
from transformers import pipeline

from hf_rec import Bert4RecConfig, ItemTokenizer
from hf_rec.cli.main import main

TINY = ["--max_length", 8, "--hidden_size", 16, "--max_steps", 6, "--use_cpu", "--disable_tqdm", "true"]
TINY += ["--gradient_accumulation_steps", 1, "--per_device_train_batch_size", 64]
ITEMS = [f"{country}-{number}" for country in range(9) for number in range(5)]


def run(*arguments: object) -> None:
    main([*map(str, arguments)])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log of 8 countries, the items of 9, and a model that reads their content."""
    folder = tmp_path_factory.mktemp("shop")
    pyarrow.parquet.write_table(country_log(num_users=60), folder / "log.parquet")
    country = [item.split("-")[0] for item in ITEMS]
    items = pa.table({"item_id": ITEMS, "country": country, "size": [float(item[-1]) for item in ITEMS]})
    pyarrow.parquet.write_table(items, folder / "items.parquet")
    content = ["--items_file", folder / "items.parquet", "--item_columns", "country", "size"]
    run("train", "--train_file", folder / "log.parquet", "--output_dir", folder / "model", *content, *TINY)
    return folder


def known(folder) -> set[str]:
    return {*ItemTokenizer.from_pretrained(folder).get_vocab()}


def test_a_model_of_the_command_reads_the_columns_that_were_named(shop):
    config = Bert4RecConfig.from_pretrained(shop / "model")
    assert [(feature.name, feature.kind) for feature in config.item_features] == [
        ("country", "category"),
        ("size", "number"),
    ]
    assert len(config.item_features[0].values) == 8  # those of the log


def test_items_are_added_and_removed_by_a_command(shop, tmp_path, capsys):
    options = ["--items_file", shop / "items.parquet", "--remove_items", "0-1", "0-2"]
    run("add-items", "--model_name_or_path", shop / "model", "--output_dir", tmp_path / "grown", *options)
    assert "added 5 items, removed 2" in capsys.readouterr().out
    assert known(tmp_path / "grown") - known(shop / "model") == {f"8-{number}" for number in range(5)}
    before = pipeline("recommendation", model=shop / "model")(["1-1"], top_k=50)
    after = pipeline("recommendation", model=tmp_path / "grown")(["1-1", "8-0"], top_k=50)
    assert {entry["item_id"] for entry in after} == {*ITEMS} - {"1-1", "8-0", "0-1", "0-2"}
    after = pipeline("recommendation", model=tmp_path / "grown")(["1-1"], top_k=50)
    scores = {entry["item_id"]: entry["score"] for entry in after}
    for entry in before:
        if entry["item_id"] not in ("0-1", "0-2"):
            assert scores[entry["item_id"]] == pytest.approx(entry["score"], abs=1e-6)


def test_items_that_were_removed_stay_so_and_are_counted_where_they_are_asked_for(shop, tmp_path, caplog):
    options = ["--items_file", shop / "items.parquet", "--remove_items", "0-1", "0-2"]
    run("add-items", "--model_name_or_path", shop / "model", "--output_dir", tmp_path / "grown", *options)
    again = ["add-items", "--model_name_or_path", tmp_path / "grown", "--output_dir", tmp_path / "again"]
    run(*again, "--items_file", shop / "items.parquet")
    assert "left out 2 of 45: items that were removed before" in caplog.text
    targets = pa.table({"user_id": ["u"] * 3, "item_id": ["1-0", "1-1", "0-1"], "timestamp": [1, 2, 3]})
    pyarrow.parquet.write_table(targets, tmp_path / "log.parquet")
    run("evaluate", "--model_name_or_path", tmp_path / "again", "--train_file", tmp_path / "log.parquet")
    assert "left out 1 of 1: test targets that no ranking can hit, as the items were removed" in caplog.text


def test_a_new_log_adds_its_items_and_trains_further(shop, tmp_path):
    rows = country_log(num_users=20).to_pylist()
    rows += [{"user_id": "new", "item_id": f"8-{time}", "timestamp": time} for time in range(4)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "newer.parquet")
    options = ["--train_file", tmp_path / "newer.parquet", "--model_name_or_path", shop / "model", *TINY[4:]]
    with pytest.raises(SystemExit, match=r"4 items are new.*'8-\d'.*\['country', 'size'\]"):
        run("train", *options, "--output_dir", tmp_path / "model")
    more = ["--items_file", shop / "items.parquet", "--remove_items", "0-0"]
    run("train", *options, "--output_dir", tmp_path / "model", *more)
    assert known(tmp_path / "model") - known(shop / "model") == {"8-0", "8-1", "8-2", "8-3"}
    recommended = pipeline("recommendation", model=tmp_path / "model")(["8-0"], top_k=50)
    assert "0-0" not in {entry["item_id"] for entry in recommended}


def test_held_out_items_have_metrics_of_their_own(shop, tmp_path):
    content = ["--items_file", shop / "items.parquet", "--item_columns", "country", "--hold_out_items", 0.2]
    run("train", "--train_file", shop / "log.parquet", "--output_dir", tmp_path / "model", *content, *TINY)
    results = json.loads((tmp_path / "model" / "all_results.json").read_text())
    names = {name for name in results if "cold_hr@10" in name}
    assert names == {
        f"{prefix}_cold_hr@10" for prefix in ("test", "random", "popularity", "last-item Markov", "content_nearest")
    }
    assert results["test_cold_targets"] + results["test_warm_targets"] == 60 and results["test_cold_targets"] > 0
    assert known(tmp_path / "model") == known(shop / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "cold_hr@10" in card and "| content_nearest " in card
    options = ["--train_file", shop / "log.parquet", "--hold_out_items", 0.2, "--output_file", tmp_path / "again.json"]
    run("evaluate", "--model_name_or_path", tmp_path / "model", *options)
    again = json.loads((tmp_path / "again.json").read_text())
    for name in ("cold_hr@10", "warm_ndcg@10", "cold_targets"):
        assert again["model"][name] == pytest.approx(results[f"test_{name}"])
        assert again["content_nearest"][name] == pytest.approx(results[f"content_nearest_{name}"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--item_columns", "country"], "items.*item_columns"),
        (["--items_file", "ITEMS", "--item_columns", "brand"], r"no column \['brand'\]"),
        (["--items_file", "ITEMS", "--item_columns", "country:hour"], "'country'.*hour"),
        (["--hold_out_items", "1.5"], "got 1.5"),
        (["--early_stopping_patience", "-1"], "early_stopping_patience.*-1"),
        (["--split", "temporal", "--test_file", "ITEMS", "--validation_file", "ITEMS"], "--split.*not read"),
        (["--dataset_split", "test"], "--dataset_split.*not read"),
        (["--remove_items", "0-0"], "remove_items|removed"),
    ],
)
def test_wrong_options_are_errors_that_name_them(shop, tmp_path, options, named):
    options = [shop / "items.parquet" if option == "ITEMS" else option for option in options]
    with pytest.raises(SystemExit, match=named):
        run("train", "--train_file", shop / "log.parquet", "--output_dir", tmp_path / "model", *options, *TINY)


def test_the_share_of_hidden_ids_is_an_option_of_new_and_saved_models(shop, tmp_path):
    items = ["--train_file", shop / "log.parquet", "--items_file", shop / "items.parquet"]
    new = ["--item_columns", "country", "--id_dropout_prob", 0.5]
    run("train", *items, "--output_dir", tmp_path / "new", *new, *TINY)
    assert Bert4RecConfig.from_pretrained(tmp_path / "new").id_dropout_prob == 0.5
    for name, options, expected in (("kept", [], 0.5), ("changed", ["--id_dropout_prob", 1], 1)):
        saved = ["--model_name_or_path", tmp_path / "new", *options]
        run("train", *items, "--output_dir", tmp_path / name, *saved, *TINY[4:])
        assert Bert4RecConfig.from_pretrained(tmp_path / name).id_dropout_prob == expected


def test_the_items_may_come_from_the_log_itself(shop, tmp_path):
    log = pyarrow.parquet.read_table(shop / "log.parquet")
    country = [item.split("-")[0] for item in log["item_id"].to_pylist()]
    country[0] = "a slip"  # which is outvoted
    quantity = [-1 if place % 9 == 5 else 1 for place in range(len(country))]
    country = [name if many > 0 else "returned" for name, many in zip(country, quantity, strict=True)]
    raw = log.append_column("land", pa.array(country)).append_column("quantity", pa.array(quantity))
    pyarrow.parquet.write_table(raw, tmp_path / "log.parquet")
    options = ["--train_file", tmp_path / "log.parquet", "--filter", "quantity > 0", "--items_from_log"]
    run("train", *options, "--item_columns", "land", "--output_dir", tmp_path / "model", *TINY)
    (feature,) = Bert4RecConfig.from_pretrained(tmp_path / "model").item_features
    assert feature.values == sorted({name for name in country if name not in ("a slip", "returned")})
    with pytest.raises(SystemExit, match="one of --items_file and --items_from_log"):
        run("train", *options, "--items_file", shop / "items.parquet", "--output_dir", tmp_path / "x", *TINY)
    with pytest.raises(SystemExit, match=r"no column \['lands'\] in the log"):
        run("train", *options, "--item_columns", "lands", "--output_dir", tmp_path / "x", *TINY)


def test_texts_of_a_log_are_embedded_once_for_each_item(tmp_path, monkeypatch):
    log = {"sku": ["a", "b", "a", "a", "c"], "title": ["Lamp", "Cup", "LAMP", "LAMP", "Tea"], "n": [1, 1, 1, 1, -1]}
    pyarrow.parquet.write_table(pa.table(log), tmp_path / "log.parquet")
    encoder = {"text": lambda _folder: lambda texts: np.array([[len(text), ord(text[1])] for text in texts])}
    monkeypatch.setattr("hf_rec.cli.embed.ENCODERS", encoder)
    options = ["--items_file", tmp_path / "log.parquet", "--text_columns", "title", "--model_name_or_path", "lengths"]
    options += ["--output_file", tmp_path / "items.parquet", "--item_column", "sku", "--filter", "n > 0"]
    run("embed", *options, "--items_from_log")
    assert pyarrow.parquet.read_table(tmp_path / "items.parquet").to_pylist() == [
        {"sku": "a", "title": "LAMP", "text": [4, ord("A")]},
        {"sku": "b", "title": "Cup", "text": [3, ord("u")]},
    ]
    with pytest.raises(SystemExit, match="--filter needs --items_from_log"):
        run("embed", *options)
