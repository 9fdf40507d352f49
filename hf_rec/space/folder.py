"""Writing a Hugging Face Space around a recommender, and pushing it to the Hub."""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, SpaceCard, SpaceCardData

from ..data.folders import check_new, filling
from ..hub.folder import save_recommender
from ..model.pipeline_bert4rec import RecommendationPipeline

PAGE = ("style.css", "lists.html", "app.py")
MODEL = "model"  # folder of the copied recommender
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
NOT_PUSHED = [".*", "*/.*", "*__pycache__*"]


def write_space(folder: str | Path, recommend: RecommendationPipeline, title: str, repo_id: str | None = None) -> None:
    """Write a page with a search, a history, and recommendations that follow it, as a Hugging Face Space.

    `python app.py` in the folder runs it, also where this package is not installed: the page runs the code that a
    recommender carries. Requirements are the installed versions of PyTorch, Transformers and Gradio. All files appear
    when they are written, `app.py` as the last one. Needs `pip install 'hf_rec[space]'`.

    Args:
        folder: A new or empty folder.
        recommend: The recommender. It is copied into the folder, with its item columns and rules.
        title: Of the page.
        repo_id: The page opens this recommender of the Hub, and nothing is copied.

    Raises:
        ValueError: for a folder that holds something.
    """
    folder = check_new(folder)
    requirements, card = page_requirements(), space_card(title, repo_id)
    with filling(folder, last="app.py") as staging:
        if repo_id is None:
            save_recommender(staging / MODEL, recommend.model, recommend.tokenizer)
        card.save(staging / "README.md")
        (staging / "requirements.txt").write_text("\n".join([*requirements, ""]), encoding="utf-8")
        for name in PAGE:
            (staging / name).write_bytes(files(__package__).joinpath(name).read_bytes())


def page_requirements() -> list[str]:
    """Lines of requirements.txt: PyTorch for CPUs, Transformers and Gradio in the installed versions."""
    try:
        installed = {name: version(name) for name in ("torch", "transformers", "gradio")}
    except PackageNotFoundError as error:
        raise ImportError("a Space needs Gradio: pip install 'hf_rec[space]'") from error
    pins = [f"{name}=={number.partition('+')[0]}" for name, number in installed.items()]
    return [f"--extra-index-url {CPU_TORCH}", *pins]


def space_card(title: str, repo_id: str | None) -> SpaceCard:
    """The README.md of a Space, with the settings by which the Hub runs it."""
    settings = SpaceCardData(
        title=title,
        emoji="🧭",
        colorFrom="yellow",
        colorTo="red",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        models=[repo_id] if repo_id else None,
    )
    source = f"[{repo_id}](https://huggingface.co/{repo_id})" if repo_id else f"the recommender in `{MODEL}/`"
    text = f"Search items, build a history, and see what {source} recommends, and why.\n\n"
    text += "To run it on your own machine:\n\n```bash\npip install -r requirements.txt\npython app.py\n```\n"
    return SpaceCard(f"---\n{settings.to_yaml()}\n---\n\n# {title}\n\n{text}")


def push_space(folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None) -> CommitInfo:
    """Upload what [`write_space`] wrote, without hidden files; the Space is made if need be, and the Hub starts it."""
    folder = Path(folder)
    if not (folder / "app.py").is_file():
        raise ValueError(f"{folder} holds no Space (no app.py); write one first")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True).repo_id
    return api.upload_folder(
        repo_id=repo_id,
        repo_type="space",
        folder_path=folder,
        ignore_patterns=NOT_PUSHED,
        commit_message="Upload page",
    )


__all__ = ["push_space", "write_space"]
