"""The folder of a Space: what is written, and that a failure leaves nothing."""

import sys
from importlib import metadata
from pathlib import Path

import pytest
from films import TITLES, film_recommender
from huggingface_hub import metadata_load
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.model.rules import parse_rules
from hf_rec.space import write_space

FILES = ["README.md", "app.py", "lists.html", "requirements.txt", "style.css"]
HISTORY = ["f0", "f7"]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_space_has_the_page_and_a_copy_of_the_recommender(tmp_path):
    recommend = film_recommender()
    recommend.model.rules = parse_rules([{"rule": "pin", "item": "f3", "place": 2}])
    write_space(tmp_path / "deep" / "space", recommend, "Films")
    assert names(tmp_path / "deep") == ["space"]
    assert names(tmp_path / "deep" / "space") == sorted([*FILES, "model"])
    copied = pipeline("recommendation", model=tmp_path / "deep" / "space" / "model")
    expected = recommend(HISTORY, top_k=5)
    assert expected[1]["title"] == TITLES["f3"]
    assert copied(HISTORY, top_k=5) == expected


def test_the_settings_are_those_by_which_the_hub_runs_a_space(tmp_path):
    title = "Films: \"new\" & 'old' {1} é"
    write_space(tmp_path / "space", film_recommender(), title)
    assert metadata_load(tmp_path / "space" / "README.md") == {
        "title": title,
        "emoji": "🧭",
        "colorFrom": "yellow",
        "colorTo": "red",
        "sdk": "gradio",
        "sdk_version": metadata.version("gradio"),
        "python_version": ".".join(map(str, sys.version_info[:2])),
        "app_file": "app.py",
    }
    installed = {name: metadata.version(name).partition("+")[0] for name in ("torch", "transformers", "gradio")}
    source, *pins = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert source == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert pins == [f"{name}=={number}" for name, number in installed.items()]


def test_a_recommender_of_the_hub_is_named_and_not_copied(tmp_path):
    (tmp_path / "space").mkdir()
    write_space(tmp_path / "space", film_recommender(), "Films", repo_id="user/films")
    assert names(tmp_path / "space") == FILES
    assert metadata_load(tmp_path / "space" / "README.md")["models"] == ["user/films"]
    assert "https://huggingface.co/user/films" in (tmp_path / "space" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_not_overwritten(tmp_path, kind):
    taken = tmp_path / "taken"
    if kind == "folder":
        taken.mkdir()
    own = taken / "app.py" if kind == "folder" else taken
    own.write_text("my own")
    with pytest.raises(ValueError, match="taken exists and is no empty folder; give another"):
        write_space(taken, film_recommender(), "Films")
    assert own.read_text() == "my own" and names(tmp_path) == ["taken"]
    assert kind == "file" or names(taken) == ["app.py"]


def test_a_recommender_that_cannot_be_saved_leaves_no_file(tmp_path):
    recommend = film_recommender()
    recommend.tokenizer = ItemTokenizer.from_items(["f0"], max_length=8)
    with pytest.raises(ValueError, match="the tokenizer has 4 tokens, the model 27"):
        write_space(tmp_path / "space", recommend, "Films")
    assert names(tmp_path / "space") == []


def test_without_gradio_the_error_names_the_extra(tmp_path, monkeypatch):
    paths = [path for path in sys.path if not (Path(path) / "gradio").is_dir()]
    monkeypatch.setattr(sys, "path", paths)
    with pytest.raises(ImportError, match=r"pip install 'hf_rec\[space\]'"):
        write_space(tmp_path / "space", film_recommender(), "Films")
    assert not (tmp_path / "space").exists()
