"""`hf-rec federated`: the common folder, and wrong calls. The roles that need Flower are tested in tests/federated."""

from importlib.util import find_spec

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import country_log, shop_splits

from hf_rec import ItemTokenizer
from hf_rec.cli.arguments import DataArguments
from hf_rec.cli.federated import owners_of
from hf_rec.cli.main import main
from hf_rec.data.demo_log import shop_log
from hf_rec.federated.catalogue import model_of_catalogue
from hf_rec.training import load_model


def failure(*arguments: object) -> str:
    with pytest.raises(SystemExit) as exit:
        main(["federated", *map(str, arguments)])
    return str(exit.value.code)


def test_the_common_folder_has_the_items_and_no_history(tmp_path):
    items = shop_log(num_users=30)[1]
    pq.write_table(items, tmp_path / "items.parquet")
    options = ["--items_file", str(tmp_path / "items.parquet"), "--output_dir", str(tmp_path / "agreed")]
    main(["federated", "create", *options, "--max_length", "16"])
    model, tokenizer = load_model(str(tmp_path / "agreed"))
    assert set(tokenizer.item_ids.drop_null().to_pylist()) == set(items["item_id"].to_pylist())
    assert (model.config.is_decoder, model.config.max_position_embeddings) == (True, 16)
    assert "no empty folder" in failure("create", *options)


def test_the_model_of_a_catalogue_is_that_of_a_log_with_these_items():
    from hf_rec.training import create_model

    splits = shop_splits()
    model, tokenizer = create_model(splits, {"is_decoder": True}, max_length=16)
    other, same = model_of_catalogue(tokenizer.item_ids.drop_null(), max_length=16, config={"is_decoder": True})
    assert other.config.to_dict() == model.config.to_dict()
    assert isinstance(same, ItemTokenizer) and same.get_vocab() == tokenizer.get_vocab()


def test_a_user_belongs_to_the_client_of_most_of_the_events(tmp_path):
    rows = [("a", "x", 1, "FR"), ("a", "y", 2, "AT"), ("a", "z", 3, "AT"), ("b", "x", 1, "FR")]
    names = ["user_id", "item_id", "timestamp", "country"]
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), tmp_path / "log.parquet")
    data = DataArguments(train_file=[str(tmp_path / "log.parquet")])
    assert owners_of(data, "country") == {"a": "AT", "b": "FR"}
    with pytest.raises(ValueError, match=r"no column \['region'\]"):
        owners_of(data, "region")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["server", "--model_name_or_path", "m", "--output_dir", "new"], ["--ssl_certfile", "--insecure"]),
        (["server", "--model_name_or_path", "m", "--output_dir", "new", "--ssl_keyfile", "k"], ["--ssl_certfile"]),
        (["client", "--model_name_or_path", "m", "--train_file", "l", "--superlink", "h:1"], ["--root_certificates"]),
        (["simulate", "--output_dir", "new", "--train_file", "l", "--rounds", "0"], ["rounds", "0"]),
        (["simulate", "--output_dir", "new"], ["--train_file"]),
    ],
)
def test_a_wrong_call_says_what_to_give(arguments, named):
    message = failure(*arguments)
    assert message.startswith("hf-rec federated: ") and "\n" not in message
    assert all(word in message for word in named), message


@pytest.mark.skipif(find_spec("flwr") is not None, reason="needs an environment without Flower")
def test_without_flower_the_extra_is_named(tmp_path):
    pq.write_table(country_log(num_users=5), tmp_path / "log.parquet")
    message = failure("simulate", "--output_dir", tmp_path / "new", "--train_file", tmp_path / "log.parquet")
    assert "hf_rec[federated]" in message and not (tmp_path / "new").exists()


def test_an_unknown_role_is_named(capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(["federated", "referee"])
    assert "referee" in capsys.readouterr().err
