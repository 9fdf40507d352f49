"""Rules on the command line: kept columns from training to the list, and metrics by rules."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from runs import country_log

from hf_rec.cli.main import main
from hf_rec.model.modeling_bert4rec import Bert4RecForCausalLM

TINY = ["--max_length", 8, "--hidden_size", 16, "--max_steps", 6, "--use_cpu", "--disable_tqdm", "true"]
TINY += ["--gradient_accumulation_steps", 1, "--per_device_train_batch_size", 64]
ITEMS = [f"{country}-{number}" for country in range(8) for number in range(5)]
RULES = [
    {"rule": "eligible", "column": "sold_in", "request": "country"},
    {"rule": "at_most", "count": 1, "column": "size", "name": "one of a size"},
]


def run(*arguments: object) -> None:
    main([*map(str, arguments)])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log, its items, rules, and a model that keeps columns of the items."""
    folder = tmp_path_factory.mktemp("shop")
    pyarrow.parquet.write_table(country_log(num_users=60), folder / "log.parquet")
    table = {
        "item_id": ITEMS,
        "sold_in": [[f"country {item[0]}", "country 0"] for item in ITEMS],
        "size": [f"size {item[-1]}" for item in ITEMS],
        "title": [f"Item {item}" for item in ITEMS],
    }
    pyarrow.parquet.write_table(pa.table(table), folder / "items.parquet")
    (folder / "rules.json").write_text(json.dumps(RULES))
    kept = ["--items_file", folder / "items.parquet", "--kept_columns", "sold_in", "size", "title", "interactions"]
    run("train", "--train_file", folder / "log.parquet", "--output_dir", folder / "model", *kept, *TINY)
    return folder


def test_training_keeps_the_columns_and_reads_none_of_them(shop):
    model = Bert4RecForCausalLM.from_pretrained(shop / "model")
    assert model.item_columns.names == ["interactions", "size", "sold_in", "title"]
    assert not model.config.item_features and model.rules == ()
    counts = model.item_columns.numbers["interactions"]
    assert counts[3:].sum() == 60 * 4 and counts[:3].sum() == 0  # without the two targets of each user


def test_recommend_obeys_a_rules_file(shop, capsys):
    call = ["recommend", "--model_name_or_path", shop / "model", "--rules_file", shop / "rules.json"]
    run(*call, "--history", "3-1", "--request", '{"country": "country 3"}', "--explain_rules")
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = line["recommended"]
    assert {entry["item_id"] for entry in found} == {"3-0", "3-2", "3-3", "3-4"}
    assert found[0]["title"] == f"Item {found[0]['item_id']}" and found[0]["rules"] == []
    with pytest.raises(SystemExit, match="give --request"):
        run(*call, "--file", shop / "log.parquet")
    users = pa.table({"user_id": [f"u{user}" for user in range(60)], "country": ["country 5"] * 60})
    pyarrow.parquet.write_table(users, shop / "users.parquet")
    log = country_log(num_users=60).drop_columns("country")
    pyarrow.parquet.write_table(log, shop / "short.parquet")
    run(*call, "--file", shop / "short.parquet", "--users_file", shop / "users.parquet")
    lists = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lists) == 60
    for row in lists:
        sizes = [entry["item_id"][-1] for entry in row["recommended"]]
        assert len(sizes) == len({*sizes}) and {entry["item_id"][0] for entry in row["recommended"]} <= {"0", "5"}


def test_evaluate_measures_lists_by_rules(shop, tmp_path, capsys):
    call = ["evaluate", "--model_name_or_path", shop / "model", "--train_file", shop / "log.parquet"]
    run(*call, "--rules_file", shop / "rules.json", "--output_file", tmp_path / "ruled.json")
    assert "by the rules eligible 1, one of a size" in capsys.readouterr().out
    run(*call, "--output_file", tmp_path / "plain.json")
    ruled, plain = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ruled", "plain"))
    assert list(ruled) == list(plain) == ["popularity", "last-item Markov", "model"]
    for name in ruled:  # a list has the items of one country only, and five sizes
        assert ruled[name]["hr@10"] > plain[name]["hr@10"]
        assert 0 < ruled[name]["diversity@10"] < 1 and "diversity@10" not in plain[name]
        assert "miscalibration@10" not in ruled[name]
    (tmp_path / "deny.json").write_text('[{"rule": "deny", "where": {"column": "colour", "any_of": ["red"]}}]')
    with pytest.raises(SystemExit, match="no column 'colour'"):
        run(*call, "--rules_file", tmp_path / "deny.json")
    with pytest.raises(SystemExit, match="--items_file and --kept_columns"):
        run(*call, "--items_file", shop / "items.parquet")


def test_evaluate_measures_variety(shop, tmp_path, capsys):
    call = ["evaluate", "--model_name_or_path", shop / "model", "--train_file", shop / "log.parquet"]
    run(*call, "--variety_column", "sold_in", "--output_file", tmp_path / "plain.json")
    assert "| diversity@10 | category_diversity@10 | miscalibration@10 |" in capsys.readouterr().out
    rules = [{"rule": "variety", "method": "calibrated", "weight": 1, "over": "sold_in"}]
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    run(*call, "--rules_file", tmp_path / "rules.json", "--output_file", tmp_path / "calibrated.json")
    plain, calibrated = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "calibrated"))
    for name in plain:
        assert calibrated[name]["miscalibration@10"] < plain[name]["miscalibration@10"]


def test_columns_of_another_table_take_the_place_of_the_saved_ones(shop, tmp_path, capsys):
    table = pa.table({"item_id": ITEMS, "colour": ["red" if item[0] == "2" else "blue" for item in ITEMS]})
    pyarrow.parquet.write_table(table, tmp_path / "items.parquet")
    (tmp_path / "rules.json").write_text('[{"rule": "allow", "where": {"column": "colour", "any_of": ["red"]}}]')
    options = ["--items_file", tmp_path / "items.parquet", "--kept_columns", "colour:category"]
    options += ["--rules_file", tmp_path / "rules.json", "--history", "3-1"]
    run("recommend", "--model_name_or_path", shop / "model", *options)
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {entry["item_id"][0] for entry in line["recommended"]} == {"2"}
    assert "title" not in line["recommended"][0]
