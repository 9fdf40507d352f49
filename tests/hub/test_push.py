"""Pushing to the Hub: a stand-in for it on this machine takes and gives the files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fake_hub import TOKEN, fake_hub
from huggingface_hub import ModelCard
from recommenders import (
    CODE,
    FACTS,
    FILES,
    RESULTS,
    assert_same_answers,
    contents,
    elsewhere,
    make_recommender,
    with_package,
)
from transformers import dynamic_module_utils
from without_package import answers

from hf_rec import Bert4RecForMaskedLM, ItemTokenizer
from hf_rec.hub import model_card, push_recommender, save_recommender
from hf_rec.hub.push import files_of


@pytest.fixture(autouse=True)
def modules_cache(tmp_path, monkeypatch):
    """Code of a folder that runs here by mistake leaves nothing on this machine."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "recommender"
    save_recommender(folder, *make_recommender(), model_card("shop", "a shop log", RESULTS, FACTS, repo="user/shop"))
    return folder


@pytest.fixture(scope="module")
def expected(saved) -> dict:
    """Answers of the recommender in this process."""
    return answers(str(saved))


def push_and_read(folder: str, token: str) -> None:
    """Push a folder and its parts, and print what the repositories answer."""
    push_recommender(folder, "user/secret", private=True, token=token)
    commit = push_recommender(folder, "shop", token=token)
    Bert4RecForMaskedLM.from_pretrained(folder).push_to_hub("user/parts", token=token)
    ItemTokenizer.from_pretrained(folder).push_to_hub("user/parts", token=token)
    Bert4RecForMaskedLM.from_pretrained("user/shop").push_to_hub("user/shop", token=token)
    read = {
        "user/secret": answers("user/secret", token=token),
        "user/shop": answers("user/shop"),
        "user/parts": answers("user/parts"),
    }
    print(json.dumps({"commit": commit.oid, "read": read}))


@pytest.fixture(scope="module")
def pushed(saved, tmp_path_factory):
    """A hub, and the reports of a process with the package, which pushes and reads, and of one without it."""
    root = tmp_path_factory.mktemp("hub")
    folder = Path(shutil.copytree(saved, root / "folder"))
    (folder / "training_curve.png").write_bytes(b"a picture")
    (folder / ".cache").mkdir()
    (folder / "checkpoint-12").mkdir()
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", ".cache/x", "checkpoint-12/rng_state.pth"):
        (folder / name).write_bytes(b"state of the training")
    for name in ("notes.txt", ".env", "README.md.bak", "purchases.parquet", "secret_upload.py"):
        (folder / name).write_bytes(b"of the user")
    (folder / "link.py").symlink_to(folder / "cpu.py")
    shutil.copy(folder / "model.safetensors", folder / "checkpoint-12")
    with fake_hub() as hub:
        lines = with_package(push_and_read, folder, TOKEN, home=root / "home", HF_ENDPOINT=hub.url).splitlines()
        names = ("--read", "user/shop", "user/parts")
        options = ("--refuse", "user/shop", "--train", "user/parts", root / "trained", *names)
        outsider = elsewhere(*options, home=root / "other", HF_ENDPOINT=hub.url)
        inside = json.loads(lines[-1])
        yield {"hub": hub, "inside": inside, "outside": outsider, "folder": folder, "trained": root / "trained"}


def test_push_uploads_the_model_its_card_and_nothing_else(pushed):
    hub, folder = pushed["hub"], pushed["folder"]
    (_, _, empty), (commit_id, message, files), *_ = hub.commits["user/shop"]
    assert empty == {}
    assert message == "Upload recommender"
    assert commit_id == pushed["inside"]["commit"]
    assert sorted(files) == sorted([*FILES, "README.md", "training_curve.png"])
    assert all(content == (folder / name).read_bytes() for name, content in files.items())


def test_push_makes_a_private_repository_where_asked(pushed):
    assert pushed["hub"].private == {"user/secret": True, "user/shop": False, "user/parts": False}


def test_push_to_hub_of_model_and_tokenizer_uploads_the_same_folder(pushed):
    _, _, files = pushed["hub"].commits["user/parts"][-1]
    assert sorted(files) == sorted([*FILES, "README.md"])
    for name in set(FILES) - {"tokenizer_config.json"}:  # Transformers notes there where a tokenizer came from
        assert files[name] == (pushed["folder"] / name).read_bytes(), name
    assert json.loads(files["tokenizer_config.json"])["tokenizer_class"] == "ItemTokenizer"


def test_push_to_hub_keeps_the_card_of_the_recommender(pushed):
    commits = pushed["hub"].commits["user/shop"]
    assert len(commits) == 3
    before, after = (ModelCard(files["README.md"].decode()) for _, _, files in commits[1:])
    assert after.text == before.text
    assert after.data.to_dict() == before.data.to_dict()


@pytest.mark.parametrize("repository", ["user/secret", "user/shop", "user/parts"])
def test_the_package_opens_a_repository_with_its_own_classes(pushed, expected, repository):
    found = pushed["inside"]["read"][repository]
    assert_same_answers(found, expected)
    assert all(name.startswith("hf_rec.") for name in [*found["classes"], found["tokenizer"]])


@pytest.mark.parametrize("repository", ["user/shop", "user/parts"])
def test_stock_transformers_opens_a_repository_with_trust_alone(pushed, expected, repository):
    found = pushed["outside"]["read"][repository]
    assert_same_answers(found, expected)
    assert all(name.startswith("transformers_modules.user.") for name in found["classes"])
    assert all("trust_remote_code=True" in (error or "") for error in pushed["outside"]["refused"].values())
    assert pushed["outside"]["ran"] == []


@pytest.mark.parametrize("way", ["model", "pipeline"])
def test_a_model_trained_from_the_hub_is_saved_with_its_code(pushed, way):
    folder = pushed["trained"] / way
    assert sorted(contents(folder)) == FILES
    assert all((folder / name).read_bytes() == (pushed["folder"] / name).read_bytes() for name in CODE)
    config = (folder / "config.json").read_text()
    assert "--" not in config  # the code is looked for in this folder, not in the repository that it came from
    trained = torch.tensor(pushed["outside"]["trained"])
    torch.testing.assert_close(torch.tensor(answers(str(folder))["logits"]), trained, rtol=0, atol=1e-5)


def test_push_takes_every_file_of_a_causal_model(tmp_path):
    save_recommender(tmp_path / "causal", *make_recommender(is_decoder=True))
    model, _ = make_recommender()
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("causal", "shards"):
        assert {file.name for file in files_of(tmp_path / folder)} == contents(tmp_path / folder).keys()


def test_push_refuses_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model \(no config\.json\); save one first"):
        push_recommender(tmp_path, "user/shop", token=TOKEN)
