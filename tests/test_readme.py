"""The code blocks of the README run, in the order of the page, as a reader would run them."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from hf_rec.cli.main import main

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
FEW_STEPS = {
    "demo": ["--num_users", "150", "--max_steps", "40"],
    "train": ["--max_steps", "20"],
}  # for the commands that train
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = re.findall(r"^(\w[\w-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def run_command(line: str) -> None:
    """Run a line of a shell: `hf-rec` in this process; what installs is only checked for its names."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["hf-rec"]:
        arguments = words[1 : words.index(">") if ">" in words else None]
        main([*arguments, *FEW_STEPS.get(arguments[0], [])])
    elif words[:1] == ["make"]:
        assert words[1] in TARGETS
    else:
        assert words[:2] == ["pip", "install"]
        assert set(re.findall(r"\[(\w+)\]", words[2])) <= set(EXTRAS)


def test_the_blocks_of_the_readme_run_in_their_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_rec.hub.push_recommender", lambda *_: None)
    names = {}
    for language, block in BLOCKS:
        if language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                run_command(line)
        else:
            exec(block.replace("num_train_epochs=1", "max_steps=20"), names)
    printed = capsys.readouterr().out
    assert "last-item Markov" in printed and '"title": "' in printed
    assert printed.count('{"user_id": "shopper-') == 150
    assert names["session"].logits.shape == (1, 1, len(names["tokenizer"]))
    lists = names["recommend"]([["sku-012"], ["sku-017"]], candidates=["sku-018"])
    assert [[entry["item_id"] for entry in row] for row in lists] == [["sku-018"], ["sku-018"]]
    assert Path("timed-recommender/model.safetensors").is_file()


def test_the_readme_is_short_and_its_links_exist():
    assert len(README.split()) <= 1_300
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target
