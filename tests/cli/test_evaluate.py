import json

import pyarrow.parquet
import pytest
from runs import SMALL, arguments, shop_splits

from hf_rec.cli.main import main
from hf_rec.data.demo_log import shop_log
from hf_rec.hub.card import CARD_METRICS
from hf_rec.training.run import train_recommender


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a log and a model of it, and the results of the training."""
    folder = tmp_path_factory.mktemp("shop")
    pyarrow.parquet.write_table(shop_log(num_users=120)[0], folder / "log.parquet")
    return folder, train_recommender(shop_splits(), arguments(folder / "model"), **SMALL)


def test_the_command_finds_what_training_found(trained, tmp_path, capsys):
    folder, expected = trained
    call = ["evaluate", "--model_name_or_path", str(folder / "model"), "--train_file", str(folder / "log.parquet")]
    main([*call, "--output_file", str(tmp_path / "metrics.json"), "--batch_size", "50"])
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert list(found) == ["popularity", "last-item Markov", "model"]
    printed = capsys.readouterr().out
    assert folder.name in printed and "leave-one-out" in printed
    for name, row in expected.items():
        for metric in CARD_METRICS:
            assert found[name][metric] == pytest.approx(row[metric])
            assert f"{row[metric]:.4f}" in printed
    main([*call, "--include_seen", "--output_file", str(tmp_path / "seen.json")])
    assert json.loads((tmp_path / "seen.json").read_text())["model"]["mrr"] != found["model"]["mrr"]
