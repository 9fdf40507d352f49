"""One folder for a recommender, written as a whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..model.item_columns import FILE as ITEM_COLUMNS
from ..model.rules import FILE as RULES


def save_recommender(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: ModelCard | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Save weights, configuration, code, vocabulary, item columns, rules and card to one folder, or leave it as it
    was.

    Everything is written to a hidden folder first and moved in last, the weights at the very end: a folder that was
    interrupted on the way has none and does not load. A card that is replaced is kept as `README.md.bak`.

    Args:
        dtype: Of the stored weights, such as `torch.float16` for half of the bytes; the folder opens in the type of
            the model, unless `from_pretrained` is given another one.

    Raises:
        ValueError: for a folder that holds another kind of model, or a tokenizer of another vocabulary.
    """
    folder = Path(folder)
    check_folder(folder, model.config.model_type)
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder if folder.exists() else folder.parent  # on the file system of the folder, which may be a mount
    with tempfile.TemporaryDirectory(dir=beside, prefix=f".{folder.name}-") as staging:
        model.save_pretrained(staging, state_dict=None if dtype is None else cast(model.state_dict(), dtype))
        tokenizer.save_pretrained(staging)
        if card is not None:
            card.save(Path(staging) / "README.md")
        folder.mkdir(exist_ok=True)
        if card is not None and (folder / "README.md").exists():
            os.replace(folder / "README.md", folder / "README.md.bak")
        for name in ("config.json", "model.safetensors", "model.safetensors.index.json", ITEM_COLUMNS, RULES):
            (folder / name).unlink(missing_ok=True)
        for file in sorted(Path(staging).iterdir(), key=lambda file: file.name.startswith("model.safetensors")):
            os.replace(file, folder / file.name)


def cast(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights with floating-point numbers of another type."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def write_json(path: Path, content) -> None:
    """Write a JSON file as a whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        json.dump(content, file, indent=2, sort_keys=True)
    try:
        os.replace(file.name, path)
    except OSError:
        os.unlink(file.name)
        raise


def check_folder(folder: Path, model_type: str) -> None:
    """Raise if a folder is a file or holds another kind of model."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a model is saved to a folder")
    config = folder / "config.json"
    if config.exists():
        try:
            found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{config} is not the configuration of a model; choose another folder") from error
        if found != model_type:
            raise ValueError(f"{folder} holds a model of type {found!r}; choose another folder")


__all__ = ["check_folder", "save_recommender", "write_json"]
