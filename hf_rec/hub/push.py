"""Pushing a saved recommender to the Hugging Face Hub."""

import re
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

# Model, vocabulary, code, card and results of a recommender.
BELONGS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|rules|all_results|model\.safetensors\.index)\.json|"
    r"model(-\d+-of-\d+)?\.safetensors|[a-z]\w*\.py|README\.md|training_curve\.png"
).fullmatch


def push_recommender(
    folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Upload what a saved recommender needs, and nothing else of its folder; the repository is made if need be."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model (no config.json); save one first")
    files = [
        file for file in sorted(folder.iterdir()) if file.is_file() and not file.is_symlink() and BELONGS(file.name)
    ]
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    operations = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files]
    return api.create_commit(repo_id, operations, commit_message="Upload recommender")


__all__ = ["push_recommender"]
