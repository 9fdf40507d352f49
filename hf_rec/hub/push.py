"""Pushing a saved recommender to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import CommitInfo, HfApi


def push_recommender(
    folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Upload a saved folder to the Hub, without checkpoints and training state; the repository is made if need be."""
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no model (no config.json); save one first")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message="Upload recommender",
        ignore_patterns=["checkpoint-*", ".*", "*.bin", "*.pt", "*.bak", "trainer_state.json"],
    )


__all__ = ["push_recommender"]
