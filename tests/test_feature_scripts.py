"""The scripts that measure features and item content."""

import json
import re
import sys
from contextlib import redirect_stdout

import ablate_features
import benchmark_features
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from runs import as_table

from hf_rec.cli.main import main
from hf_rec.cli.train import ModelArguments

TINY = ["--max_length", 8, "--hidden_size", 16, "--max_steps", 4, "--use_cpu", "--disable_tqdm", "true"]
TINY += ["--gradient_accumulation_steps", 1]


@pytest.fixture
def run_script(monkeypatch, capsys):
    def run(module, *options: object) -> str:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, options)])
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def clothing(tmp_path):
    """A log in the columns of eshop-clothing."""
    rng = np.random.default_rng(0)
    rows = [(session, int(item), place) for session in range(40) for place, item in enumerate(rng.integers(0, 20, 6))]
    log = as_table(rows).rename_columns(["session_id", "item_id", "order"])
    items = log["item_id"].to_numpy()
    columns = {"location": items % 3, "page": items % 5, "main_category": items % 4, "colour": items % 7}
    columns |= {"model_photography": items % 2, "price": items, "price_2": items % 2, "country": rows_of(log) % 3}
    for name, values in columns.items():
        log = log.append_column(name, pa.array(values))
    (tmp_path / "eshop-clothing").mkdir()
    pyarrow.parquet.write_table(log, tmp_path / "eshop-clothing" / "events.parquet")
    return tmp_path


def rows_of(table: pa.Table) -> np.ndarray:
    return np.arange(len(table))


@pytest.mark.slow
def test_each_kind_of_feature_is_trained_alone_and_with_all_others(clothing, run_script, monkeypatch):
    def train(command, check, stdout):
        assert check
        with redirect_stdout(stdout):
            main(command[3:])

    monkeypatch.setattr(ablate_features.subprocess, "run", train)
    options = ["--dataset", "eshop-clothing", "--data_dir", clothing, "--output_dir", clothing / "runs"]
    printed = run_script(ablate_features, *options, "--seeds", 0, 1, *TINY)
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    assert [row[0][2:] for row in rows] == ["ids", "+ place on the page", "+ categories", "+ country", "all"]
    configs = {}
    for row in rows:
        name = re.sub(r"\W", "-", row[0][2:])
        folders = [clothing / "runs" / "eshop-clothing" / name / f"seed-{seed}" for seed in (0, 1)]
        results = [json.loads((folder / "all_results.json").read_text())["test_ndcg@10"] for folder in folders]
        assert row[2].startswith(f"{np.mean(results):.4f} ± {np.std(results, ddof=1):.4f}")
        config = json.loads((folders[0] / "config.json").read_text())
        configs[name] = {f["name"] for f in config["features"]}, {f["name"] for f in config["item_features"]}
    assert configs["ids"] == (set(), set())
    assert configs["--country"] == ({"country"}, set())
    assert configs["all"] == (
        {"location", "page", "country"},
        {"main_category", "colour", "model_photography", "price", "price_2"},
    )
    with pytest.raises(SystemExit):
        run_script(ablate_features, *options, "--variants", "+ text")


@pytest.mark.parametrize("name", list(ablate_features.SHOPS))
def test_the_columns_of_each_data_set_are_there(name, real_data):
    shop, names = ablate_features.SHOPS[name], {"event": set(), "request": {"time_gap", "hour", "weekday", "month"}}
    folder, given = real_data / name, dict(zip(shop.log[::2], shop.log[1::2], strict=False))
    read = {"log": given["--train_file"], "item": shop.items or given["--train_file"], "user": shop.users}
    columns = {place: {*pyarrow.parquet.read_schema(folder / file).names} for place, file in read.items() if file}
    for kinds in shop.columns.values():
        for place, wanted in kinds.items():
            known = columns.get(place, columns["log"]) | names.get(place, set()) | ({"text"} if shop.texts else set())
            assert {column.split(":")[0] for column in wanted} <= known
            assert f"{place}_columns" in ModelArguments.__dataclass_fields__


def test_models_with_and_without_features_take_turns(tmp_path, run_script):
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}", place) for user in range(80) for place, item in enumerate(rng.integers(0, 30, 5))]
    (tmp_path / "shop").mkdir()
    pyarrow.parquet.write_table(as_table(rows), tmp_path / "shop" / "log.parquet")
    printed = run_script(
        benchmark_features, "--train_file", tmp_path / "shop" / "log.parquet", "--rounds", 2, "--steps", 1
    )
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["ids alone", "three event columns", "item content"]
    assert [float(cell) for cell in rows[0][2::2]] == [1.0, 1.0]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])
