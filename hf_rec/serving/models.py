"""The model that a server answers with: opened, checked, and replaced without a pause."""

import gc
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from transformers import pipeline

from ..model.features import TIMES, Feature, encode
from ..model.pipeline_bert4rec import RecommendationPipeline
from ..model.rule_set import RuleSet
from ..model.rules import rules_to_json
from .onnx import open_export
from .vectors import similar_items


class ModelRefused(ValueError):
    """A model that does not open, does not answer, or does not fit the one that is served."""


def open_recommender(model_name_or_path: str | Path, threads: int | None = None) -> RecommendationPipeline:
    """The pipeline of a saved recommender or of its export.

    Args:
        model_name_or_path: Folder or Hub id of the recommender, or folder of its export.
        threads: Of the model; as many as its runtime takes by default if None.
    """
    if (Path(model_name_or_path) / "export.json").is_file():
        return open_export(model_name_or_path, threads)
    if threads is not None:
        torch.set_num_threads(threads)
    return pipeline("recommendation", model=str(model_name_or_path))


def folder_version(model_name_or_path: str | Path) -> str:
    """A name for the files of a folder, or of a Hub id in the cache: it changes when they are replaced."""
    folder = Path(model_name_or_path)
    if not folder.is_dir():
        folder = Path(hf_hub_download(str(model_name_or_path), "config.json")).parent
    stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files_of(folder)]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:12]


def files_of(folder: Path) -> list[Path]:
    """The files of a saved model; hidden ones are not ready yet."""
    return [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]


@contextmanager
def private_copy(model_name_or_path: str) -> Iterator[str]:
    """A copy of a folder, or the Hub id, whose files nobody overwrites, in a block.

    Weights are mapped into memory, not read: a process dies when such a file is overwritten. Those of the copy stay
    after it is deleted, as long as they are mapped.
    """
    if not Path(model_name_or_path).is_dir():
        yield model_name_or_path
        return
    with tempfile.TemporaryDirectory(prefix="hf_rec-", ignore_cleanup_errors=True) as copy:
        for file in files_of(Path(model_name_or_path)):
            shutil.copy2(file, copy)
        if folder_version(copy) != folder_version(model_name_or_path):
            raise ValueError("its files are being replaced; try again")
        yield copy


@dataclass(frozen=True)
class ServedModel:
    """A pipeline and the version of its files."""

    recommend: RecommendationPipeline
    version: str

    @cached_property
    def readers(self) -> dict[str, Feature]:
        """The features by the columns of events that they read, without those of the time."""
        features = self.recommend.model.config.features
        return {feature.column: feature for feature in features if feature.column != TIMES}

    @cached_property
    def reads_request_time(self) -> bool:
        features = self.recommend.model.config.features
        return any(feature.column == TIMES and feature.at != "event" for feature in features)

    def check_event(self, columns: Mapping[str, Any]) -> None:
        """Raise a `ValueError` or `TypeError` for columns that the model does not read."""
        if unread := sorted(columns.keys() - self.readers.keys()):
            raise ValueError(f"the model does not read {unread} of an event; it reads {sorted(self.readers)}")
        for name, value in columns.items():
            encode(self.readers[name], [value])

    def rule_set(self, rules=None, extra_rules=()) -> RuleSet | None:
        """The rules of a call; the saved ones and no others by default."""
        saved = rules_to_json(self.recommend.model.rules)
        return self.recommend.rule_set(saved if rules is None else rules, extra_rules)

    def warm_up(self, top_k: int) -> None:
        """Answer for the shortest and the longest history, compile the saved rules, read the table of items."""
        self.rule_set()
        length = self.recommend.model.config.max_position_embeddings
        histories = [[], [*self.recommend.id_of_item][:length]]
        if not all(self.recommend(histories, top_k=top_k, exclude_seen=False, rules=[])):
            raise ValueError("the model recommends nothing")
        with suppress(ValueError):  # an export without a table of items, as an answer to `/similar` says
            similar_items(self.recommend, next(iter(self.recommend.id_of_item)), 1)


class ModelSource:
    """Where a server gets its model from: the one that is served, and newer ones.

    Args:
        model_name_or_path: As in [`open_recommender`]; a link to a folder is followed at each reload.
        top_k: Length of the longest lists that are asked for.
        threads: As in [`open_recommender`].

    Raises:
        ModelRefused: for a model that does not open or does not answer.
    """

    def __init__(self, model_name_or_path: str | Path, top_k: int = 100, threads: int | None = None):
        self.name, self.top_k, self.threads = str(model_name_or_path), top_k, threads
        self.reloading = Lock()
        self.current = self.open()

    def open(self) -> ServedModel:
        try:
            with private_copy(self.name) as copy:
                served = ServedModel(open_recommender(copy, self.threads), folder_version(copy))
                served.warm_up(self.top_k)
        except Exception as error:  # a damaged file raises what its reader happens to raise
            raise ModelRefused(f"{self.name} cannot be served: {' '.join(str(error).split())}") from error
        return served

    def reload(self) -> ServedModel:
        """Open what is there now and serve it.

        Raises:
            ModelRefused: for a model that does not open, does not answer, knows no item of the served one, or reads a
                column in another way or not at all; the served one stays.
        """
        with self.reloading:
            served = self.open()
            check_successor(self.current, served)
            self.current = served
        return served


def keep_what_is_there() -> None:
    """Collect garbage, and let later collections pass over all that is there now.

    The libraries have so many objects that a collection of all of them stops every answer for some 0.2 seconds.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def check_successor(old: ServedModel, new: ServedModel) -> None:
    """Raise if requests and sessions that fit one model do not fit the next."""
    if not old.recommend.id_of_item.keys() & new.recommend.id_of_item.keys():
        raise ModelRefused("the new model knows no item of the served one; it is that of another shop")
    kinds = [{feature.column: feature.kind for feature in served.readers.values()} for served in (old, new)]
    if changed := sorted(name for name, kind in kinds[0].items() if kinds[1].get(name) != kind):
        raise ModelRefused(f"the new model does not read {changed} as the served one does; restart the server for it")


__all__ = ["ModelRefused", "ModelSource", "ServedModel", "keep_what_is_there", "open_recommender"]
