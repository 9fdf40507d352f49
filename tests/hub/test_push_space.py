"""Pushing a Space to the Hub: a stand-in for it on this machine takes the files."""

import json

import pytest
from fake_hub import TOKEN, fake_hub
from huggingface_hub import metadata_load
from recommenders import contents, make_recommender, with_package
from transformers import pipeline

from hf_rec.space import push_space, write_space


def push(folder: str, token: str) -> None:
    """Push a folder twice, once to a private Space, and print the commits."""
    first = push_space(folder, "page", token=token)
    second = push_space(folder, "user/secret", private=True, token=token)
    print(json.dumps([first.oid, second.oid]))


@pytest.mark.slow
def test_push_makes_a_space_of_gradio_and_uploads_what_was_written(tmp_path):
    space = tmp_path / "space"
    model, tokenizer = make_recommender()
    write_space(space, pipeline("recommendation", model=model, tokenizer=tokenizer), "Shop")
    written = contents(space) | {f"model/{name}": data for name, data in contents(space / "model").items()}
    assert {"app.py", "README.md", "model/model.safetensors", "model/rules.py"} <= written.keys()
    for name in (
        ".env",
        ".cache/token",
        "__pycache__/app.cpython-311.pyc",
        "model/__pycache__/x.pyc",
        "model/.secret",
    ):
        (space / name).parent.mkdir(exist_ok=True)
        (space / name).write_bytes(b"not of the Space")
    with fake_hub() as hub:
        printed = with_package(push, space, TOKEN, home=tmp_path / "home", HF_ENDPOINT=hub.url)
        ids = json.loads(printed.splitlines()[-1])
        assert hub.kinds == dict.fromkeys(("user/page", "user/secret"), ("space", "gradio"))
        assert hub.private == {"user/page": False, "user/secret": True}
        for repository, commit in zip(hub.commits, ids, strict=True):
            _, (commit_id, message, files) = hub.commits[repository]
            assert (commit_id, message) == (commit, "Upload page")
            assert files == written
    (tmp_path / "README.md").write_bytes(files["README.md"])
    assert metadata_load(tmp_path / "README.md")["title"] == "Shop"


def test_push_refuses_a_folder_without_a_page(tmp_path):
    with pytest.raises(ValueError, match=r"holds no Space \(no app\.py\); write one first"):
        push_space(tmp_path, "user/page", token=TOKEN)
