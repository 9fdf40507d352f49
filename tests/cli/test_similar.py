import json

import pytest
from conftest import small_model
from rule_worlds import item_columns
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.hub.folder import save_recommender
from hf_rec.serving import similar_items


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    model = small_model(len(tokenizer), is_decoder=True)
    model.item_columns = item_columns(len(tokenizer))
    folder = tmp_path_factory.mktemp("model") / "saved"
    save_recommender(folder, model, tokenizer)
    return folder


def test_the_similar_items_of_each_item_are_printed(folder, capsys):
    main(["similar", "--model_name_or_path", str(folder), "--item_id", "item-3", "item-5", "--top_k", "4"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    recommend = pipeline("recommendation", model=str(folder))
    assert lines == [
        {"item_id": item, "similar": similar_items(recommend, item, top_k=4)} for item in ("item-3", "item-5")
    ]
    assert all(entry["title"].startswith("Item ") for line in lines for entry in line["similar"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--item_id", "nothing"], "no item 'nothing' in the catalogue"),
        (["--item_id", "item-3", "--by", "content"], "the model has no content of items"),
        (["--item_id", "item-3", "--top_k", "0"], "top_k must be at least 1"),
    ],
)
def test_wrong_calls_are_one_line(folder, options, named):
    with pytest.raises(SystemExit, match=f"hf-rec similar: .*{named}"):
        main(["similar", "--model_name_or_path", str(folder), *options])
