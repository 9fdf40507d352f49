"""Updates of a served model with the newest events: taken, trained on, compared, and swapped if that is no worse."""

import copy
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict
from filelock import FileLock, Timeout
from transformers.utils import logging

from ..data.columns import as_array, list_lengths, time_numbers
from ..data.encode import split_name, tokenize_splits
from ..data.events import EventStore, Source
from ..data.splits import Candidates, cut_histories, events_before, with_targets
from ..data.tokenization_items import ItemTokenizer
from ..evaluation.evaluate import evaluate
from ..hub.folder import save_recommender, write_json
from ..model.configuration_bert4rec import Bert4RecConfig
from .arguments import RecommendationTrainingArguments
from .create import load_model
from .run import train_recommender

logger = logging.get_logger(__name__)

STATE, LOCK, EVENTS, MODELS, SERVED = "state.json", ".update.lock", "events", "models", "served"
FIRST_SHARE = 0.1  # of all events, those that the first model is tested on
VALIDATED = 0.1  # share of the users whose last event before the newest ones validates the training
KEPT_MODELS = 2  # the served one and the one before it


class Update(NamedTuple):
    """What one update did.

    Args:
        number: Of the update and the folder of its model, from 1 on; 0 for a model that was given.
        events: That were taken so far.
        new_items: Items that the served model did not know.
        targets: Users that both models were compared on.
        start: Where the newest events begin, as a number of the unit of the times.
        served: Metric of the served model on the newest events; None without one.
        candidate: Metric of the new one.
        accepted: Whether the new one is served from now on.
    """

    number: int
    events: int
    new_items: int
    targets: int
    start: float
    served: float | None
    candidate: float | None
    accepted: bool


def update_recommender(
    sources: Iterable[Source],
    args: RecommendationTrainingArguments,
    *,
    model_name_or_path: str | None = None,
    newest_share: float = 0.3,
    min_targets: int = 50,
    tolerance: float = 0.0,
    columns: Iterable[str] = (),
    log: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Update]:
    """Take the newest events into `args.output_dir` and update the model that is served from there, if they suffice.

    The folder has the events so far (`events/`), the models (`models/`), a link to the one to serve (`served`) and
    `state.json`, which says what was taken and decided. The first call takes a log: it trains a new model, or serves a
    given one, which was trained on that log. Each later call trains the served model further on all events before the
    newest ones and ranks with both models the first of the newest events of each user. The link is set to the new
    model if its `args.metric_for_best_model` is at least that of the served one.

    A call that was interrupted at any point is completed by the next one, before new events are taken.

    Args:
        sources: Where events come from, as [`file_source`] and [`kafka_source`] return them.
        args: Arguments of the training; `output_dir` is the folder of the updates.
        model_name_or_path: A saved model to begin with.
        newest_share: Of the events that the served model was not trained on, those that both models are compared on;
            for the first model a tenth of all events.
        min_targets: Users with newest events and a history before; with fewer the events wait for the next call.
        tolerance: How far below the served model a new one may be.
        columns: Columns of the events that the model reads; those of the first call if there are none.
        log: Options of [`build_sequences`], how the events are read.
        options: Of [`train_recommender`], for a new model; `items` also for the content of new items.

    Returns:
        The updates that were made: none if there were too few new events, two if one was interrupted before.

    Raises:
        ValueError: for a folder in use, a share out of range, options that the served model was not made with, and
            what the sources and the training refuse.
    """
    if not 0 < newest_share < 1:
        raise ValueError(f"the share of the newest events must be above 0 and below 1, got {newest_share}")
    if args.push_to_hub:
        raise ValueError("an update decides whether to serve its model after training; push the served folder then")
    with UpdateFolder(Path(args.output_dir)) as folder:
        store = EventStore(folder.path / EVENTS, folder.keep_columns(columns), **folder.keep_options(log or {}))
        trained = Trainee(args, tolerance, options)
        if folder.served:
            check_served(folder.model(folder.served["number"]), options)
        updates = [folder.complete(store, trained)] if folder.state["pending"] else []
        folder.take(store, sources)
        if model_name_or_path and not folder.state["updates"]:
            return [*updates, folder.adopt(model_name_or_path, store, options.get("config"))]
        if folder.plan(store, newest_share, min_targets):
            updates.append(folder.complete(store, trained))
    return updates


class Trainee(NamedTuple):
    """How models are trained and compared."""

    args: RecommendationTrainingArguments
    tolerance: float
    options: Mapping[str, Any]

    def train(self, folder: Path, splits: DatasetDict, catalogue: pa.Table, served: Path | None) -> float:
        """Train a model into a folder, from the served one or from scratch; its metric on the test split."""
        args = copy.copy(self.args)
        args.output_dir = str(folder)
        options = dict(self.options)
        if served is not None:
            options = {name: value for name, value in options.items() if name in FURTHER}
            options["model_name_or_path"] = str(served)
        results = train_recommender(splits, args, catalogue=catalogue, **options)
        return results[folder.name][self.metric]

    def measure(self, folder: Path, splits: DatasetDict) -> float:
        """The metric of a saved model on the test split."""
        model, tokenizer = load_model(str(folder))
        tokenized = tokenize_splits(splits, tokenizer, model.config.features)
        return evaluate(model, tokenized, self.args, batch_size=self.args.per_device_eval_batch_size)[self.metric]

    @property
    def metric(self) -> str:
        return self.args.metric_for_best_model.removeprefix("eval_")


def check_served(served: Path, options: Mapping[str, Any]) -> None:
    """Raise for options of a new model that the served one, which is trained further, was not made with."""
    config = Bert4RecConfig.from_pretrained(served)
    given = dict(options.get("config") or {})
    if options.get("max_length"):
        given["max_position_embeddings"] = options["max_length"]
    has = {name: getattr(config, name) for name in given}
    for features, names in (
        (config.features, ("event_columns", "request_columns")),
        (config.item_features, ("item_columns",)),
    ):
        columns = sorted({split_name(column)[0] for name in names for column in options.get(name) or ()})
        if columns:
            given[", ".join(names)], has[", ".join(names)] = columns, sorted(feature.name for feature in features)
    if different := [
        f"{name} ({has[name]!r} there, {given[name]!r} here)" for name in given if has[name] != given[name]
    ]:
        raise ValueError(
            f"{served} was made with other {'; '.join(different)}; give the options of the first update, or begin a "
            "new folder"
        )


FURTHER = ("items", "item_column", "collator", "patience", "origin", "new_item_loss")  # options for a saved model, too


class UpdateFolder:
    """The folder of the updates of one model, locked while it is open.

    Raises:
        ValueError: on opening, for a folder that another update uses, or that holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lock = FileLock(path / LOCK)

    def __enter__(self):
        ours = (self.path / STATE).is_file() or not self.path.exists()
        if not ours and any(file.name != LOCK for file in self.path.iterdir()):
            raise ValueError(f"{self.path} is not empty and is not the folder of updates; give another --output_dir")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another update works in {self.path}; wait for its end") from error
        file = self.path / STATE
        new = {"version": 1, "columns": None, "log": None, "events": {}, "updates": [], "pending": None}
        self.state = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else new
        self.publish()
        return self

    def __exit__(self, *_):
        self.lock.release()

    def store_state(self, **changes: Any) -> None:
        self.state |= changes
        write_json(self.path / STATE, self.state)

    def model(self, number: int) -> Path:
        return self.path / MODELS / f"{number:06}"

    @property
    def served(self) -> dict[str, Any] | None:
        """The last update that was accepted."""
        return next((update for update in reversed(self.state["updates"]) if update["accepted"]), None)

    def keep_columns(self, columns: Iterable[str]) -> list[str]:
        """The columns of events that are kept, those of the first call.

        Raises:
            ValueError: for others.
        """
        columns, kept = list(columns), self.state["columns"]
        if kept is not None and columns and sorted(columns) != sorted(kept):
            raise ValueError(f"{self.path} keeps the columns {kept} of the events, got {columns}; begin a new folder")
        if kept is None:
            self.store_state(columns=columns)
        return self.state["columns"]

    def keep_options(self, log: Mapping[str, Any]) -> dict[str, Any]:
        """How the log is read, as in the first call.

        Raises:
            ValueError: for other options.
        """
        given, kept = {name: value for name, value in log.items() if value is not None}, self.state["log"]
        if kept is None:
            self.store_state(log=given)
        elif given != kept:
            raise ValueError(f"{self.path} reads events with {kept}, got {given}; begin a new folder")
        return given

    def take(self, store: EventStore, sources: Iterable[Source]) -> None:
        """Take what is new in the sources."""
        self.store_state(events=store.take(self.state["events"], sources))
        if not self.state["events"]["batches"]:
            raise ValueError("the sources have no events")

    def adopt(self, model_name_or_path: str, store: EventStore, config: Mapping[str, Any] | None) -> Update:
        """Serve a model that was trained on the events so far, with these fields of its configuration."""
        save_recommender(self.model(0), *load_model(model_name_or_path, config))
        sequences = store.sequences(self.state["events"]["batches"])
        times = times_of(sequences)
        update = Update(0, len(times), 0, 0, float(np.nextafter(float(times.max()), np.inf)), None, None, True)
        self.decide(update)
        return update

    def plan(self, store: EventStore, newest_share: float, min_targets: int) -> bool:
        """Choose the newest events and store that; False if too few users have some."""
        batches = self.state["events"]["batches"]
        sequences = store.sequences(batches)
        times = times_of(sequences)
        if self.state["updates"] and self.state["updates"][-1]["events"] == len(times):
            logger.warning("no new events")
            return False
        new = times[times >= self.served["start"]] if self.served else times
        share = newest_share if self.served else FIRST_SHARE
        start = float(np.quantile(new, 1 - share, method="higher")) if len(new) else np.inf
        before = events_before(sequences, start)
        targets = int(np.count_nonzero((before > 0) & (before < list_lengths(as_array(sequences["item_ids"])))))
        if targets < min_targets:
            logger.warning(
                f"{len(new):,} new events; {targets} users have one of the newest and a history, fewer than "
                f"{min_targets}: no training yet"
            )
            return False
        last = max((update["number"] for update in self.state["updates"]), default=0)
        self.store_state(pending={"number": last + 1, "batches": len(batches), "start": start})
        return True

    def complete(self, store: EventStore, trained: Trainee) -> Update:
        """Train, compare and decide, as the stored plan says."""
        pending = self.state["pending"]
        sequences = store.sequences(self.state["events"]["batches"][: pending["batches"]])
        splits = newest_splits(sequences, pending["start"], trained.args.seed)
        served = self.model(self.served["number"]) if self.served else None
        candidate = trained.train(self.model(pending["number"]), splits, catalogue_of(sequences), served)
        before = trained.measure(served, splits) if served else None
        sign = 1 if trained.args.greater_is_better else -1
        no_worse = before is None or sign * candidate >= sign * before - trained.tolerance
        accepted = math.isfinite(candidate) and no_worse
        models = [self.model(pending["number"]), *filter(None, [served])]
        sizes = [len(ItemTokenizer.from_pretrained(str(path))) for path in models]
        update = Update(
            pending["number"],
            len(times_of(sequences)),
            sizes[0] - sizes[-1],
            len(splits["test"]),
            pending["start"],
            before,
            candidate,
            accepted,
        )
        self.decide(update)
        return update

    def decide(self, update: Update) -> None:
        """Store an update, which from then on is done, and act accordingly."""
        self.store_state(updates=[*self.state["updates"], update._asdict()], pending=None)
        self.publish()

    def publish(self) -> None:
        """Link the model to serve and remove those that are not needed, as the state says."""
        if self.served is None:
            return
        link, target = self.path / SERVED, Path(MODELS) / f"{self.served['number']:06}"
        if not link.is_symlink() or Path(os.readlink(link)) != target:
            partial = self.path / f".{SERVED}"
            partial.unlink(missing_ok=True)
            partial.symlink_to(target, target_is_directory=True)
            partial.replace(link)
        accepted = [update["number"] for update in self.state["updates"] if update["accepted"]]
        kept = {self.model(number) for number in accepted[-KEPT_MODELS:]}
        for update in self.state["updates"]:
            model = self.model(update["number"])
            if model not in kept:
                shutil.rmtree(model, ignore_errors=True)
            for checkpoint in model.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)


def catalogue_of(sequences: Dataset) -> pa.Table:
    """The items of sequences in order of first appearance: `item_id` and `count`."""
    found = pc.value_counts(as_array(sequences["item_ids"]).flatten())
    return pa.table({"item_id": found.field("values"), "count": found.field("counts")})


def times_of(sequences: Dataset) -> np.ndarray:
    """(events,) times as numbers."""
    return time_numbers(as_array(sequences["timestamps"]).flatten(), "timestamps")


def newest_splits(sequences: Dataset, start: float, seed: int = 0) -> DatasetDict:
    """Training on what came before the newest events, which test it.

    Args:
        start: Where the newest events begin, as a number.
        seed: Of the users that validate.

    Returns:
        As [`leave_one_out`]: `test` has each user's first event from `start` on, with the history before it;
        `validation` the last event before `start` of a tenth of the users; `train` all others before `start`.

    Raises:
        ValueError: if no user has two events before `start`.
    """
    lengths, before = list_lengths(as_array(sequences["item_ids"])), events_before(sequences, start)
    past = cut_histories(sequences, before)
    last = Candidates(past).of_users(last=1)
    able = np.flatnonzero(last.history > 0)
    if not len(able):
        raise ValueError("no user has two events before the newest ones; give more events")
    validated = np.zeros(len(past), dtype=bool)
    count = max(round(VALIDATED * len(able)), 1)
    validated[np.random.default_rng(seed).choice(able, count, replace=False)] = True
    whole = list_lengths(as_array(past["item_ids"]))
    return DatasetDict(
        train=cut_histories(past, np.where(validated, last.history, whole)),
        validation=with_targets(past, *last.where(validated)),
        test=with_targets(sequences, before, np.where(before < lengths, before, 0)),
    )


__all__ = ["Update", "newest_splits", "update_recommender"]
