"""Pushing a saved recommender to the Hugging Face Hub."""

import json
import re
from importlib.resources import files
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

# Model, vocabulary, card and results of a recommender.
BELONGS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|rules|all_results|model\.safetensors\.index)\.json|"
    r"(model(-\d+-of-\d+)?|item_columns)\.safetensors|README\.md|(training_curve|calibration)\.png"
).fullmatch


def push_recommender(
    folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Upload what a saved recommender needs, and nothing else of its folder; the repository is made if need be."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model (no config.json); save one first")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    operations = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files_of(folder)]
    return api.create_commit(repo_id, operations, commit_message="Upload recommender")


def files_of(folder: Path) -> list[Path]:
    """The files that a saved recommender needs: no other scripts, links, checkpoints or data of its folder."""
    auto_map = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map", {})
    code = {file.name for file in files("hf_rec.model").iterdir() if file.name.endswith(".py")} - {"__init__.py"}
    code |= {f"{reference.split('.')[0]}.py" for reference in auto_map.values()}
    found = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.is_symlink()]
    return [file for file in found if BELONGS(file.name) or file.name in code]


__all__ = ["push_recommender"]
