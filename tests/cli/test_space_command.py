"""`hf-rec space`: the model, the table of items, and what a wrong call prints."""

import pyarrow.parquet
import pytest
from films import ITEMS, TITLES, film_recommender
from huggingface_hub import metadata_load
from transformers import pipeline

from hf_rec import Bert4RecConfig, Bert4RecForSequenceClassification, ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.hub import save_recommender
from hf_rec.model.rules import parse_rules


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a model, one that has rules for its genres, and a table of the items with other names."""
    folder = tmp_path_factory.mktemp("shop")
    plain, ruled = film_recommender(columns=()), film_recommender()
    ruled.model.rules = parse_rules([{"rule": "at_most", "count": 2, "column": "genres"}])
    save_recommender(folder / "model", plain.model, plain.tokenizer)
    save_recommender(folder / "ruled", ruled.model, ruled.tokenizer)
    tokenizer = ItemTokenizer.from_items([*TITLES], max_length=8)
    config = Bert4RecConfig(vocab_size=len(tokenizer), max_position_embeddings=8, label_of="user", num_labels=2)
    save_recommender(folder / "classifier", Bert4RecForSequenceClassification(config), tokenizer)
    pyarrow.parquet.write_table(ITEMS.rename_columns(["film", "name", "genres", "year"]), folder / "items.parquet")
    (folder / "export").mkdir()
    (folder / "export" / "export.json").write_text("{}")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    return folder


@pytest.mark.parametrize("first", [[], ["--model_name_or_path"]])
def test_the_model_is_the_first_argument(shop, tmp_path, capsys, first):
    main(["space", *first, str(shop / "model"), "--output_dir", str(tmp_path / "space")])
    assert capsys.readouterr().out == f"Try: cd {tmp_path / 'space'} && python app.py\n"
    assert metadata_load(tmp_path / "space" / "README.md")["title"] == "Recommendations of model"
    assert (tmp_path / "space" / "model" / "model.safetensors").is_file()


def test_a_table_gives_titles_and_categories(shop, tmp_path):
    options = ["--items_file", shop / "items.parquet", "--item_column", "film", "--title_column", "name"]
    options += ["--kept_columns", "genres", "--title", "Films", "--output_dir", tmp_path / "space"]
    main(["space", *map(str, [shop / "model", *options])])
    recommend = pipeline("recommendation", model=tmp_path / "space" / "model")
    assert recommend.model.item_columns.kinds == {"title": "text", "genres": "bag"}
    listed = recommend(["f0"], top_k=23)
    assert {entry["item_id"]: entry.get("title") for entry in listed} == {
        item: title for item, title in TITLES.items() if item != "f0"
    }
    assert metadata_load(tmp_path / "space" / "README.md")["title"] == "Films"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere"], ["huggingface.co"]),
        (["FOLDER/broken"], ["broken", "config.json"]),
        (["FOLDER/classifier"], ["classifier", "needs a recommender"]),
        (["FOLDER/export"], ["is an export", "that was exported"]),
        (["FOLDER/model", "--kept_columns", "genres"], ["--items_file"]),
        (["FOLDER/model", "--private"], ["--push"]),
        (["FOLDER/model", "--items_file", "FOLDER/items.parquet"], ["no column", "item_id", "film"]),
        (
            [
                "FOLDER/ruled",
                "--items_file",
                "FOLDER/items.parquet",
                "--item_column",
                "film",
                "--title_column",
                "name",
            ],
            ["genres", "at_most"],
        ),
    ],
)
def test_a_wrong_call_is_one_line_that_says_what_to_do(shop, tmp_path, options, named):
    options = [option.replace("FOLDER", str(shop)) for option in options]
    with pytest.raises(SystemExit) as exit:
        main(["space", *options, "--output_dir", str(tmp_path / "space")])
    assert exit.value.code.startswith("hf-rec space: ") and "\n" not in exit.value.code
    assert [word for word in named if word not in exit.value.code] == [], exit.value.code
    assert not (tmp_path / "space").exists()
