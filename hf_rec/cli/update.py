"""Take the newest events, train the served recommender further, and serve the result if it is no worse on them.

Run it again for each update, as from cron: events that were taken are known, and an interrupted call is completed.
"""

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..data.encode import DERIVED
from ..data.events import Source, file_source, kafka_source
from ..data.files import times_as_text
from ..training.arguments import RecommendationTrainingArguments
from ..training.report import Origin
from ..training.update import SERVED, Update, update_recommender
from .arguments import FLAG, LogArguments
from .train import ModelArguments, command_line, parse

# Options of `hf-rec train` that an update does not have.
OF_TRAINING = (
    *("remove_items", "replace_items", "teacher", "items_from_log", "user_columns", "streaming", "users_file"),
    "kept_columns",
)


@dataclass
class UpdateArguments:
    """Where the events come from, and when a model is served."""

    events_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files with the newest events, or folders and patterns that get more of them: Parquet, CSV or "
            "JSON lines. Files that were taken are not read again, unless they changed."
        },
    )
    kafka_servers: str | None = field(default=None, metadata={"help": "Brokers of Kafka, as host:port,host:port."})
    kafka_topic: str | None = field(
        default=None, metadata={"help": "A topic whose messages are events as JSON objects."}
    )
    newest_share: float = field(
        default=0.3,
        metadata={
            "help": "Share of the events that the served model was not trained on, the newest ones, that both models "
            "are compared on. The next update trains on them. With 0.5 they are about as many as came since the last "
            "update."
        },
    )
    min_targets: int = field(
        default=50, metadata={"help": "Users with newest events and a history; with fewer, the events wait."}
    )
    tolerance: float = field(
        default=0.0, metadata={"help": "How far the metric of a new model may be below that of the served one."}
    )
    include_seen: bool | None = field(
        default=None, metadata={**FLAG, "help": "Whether a new model also ranks items of the history. Default: no."}
    )

    def __post_init__(self):
        if bool(self.kafka_servers) != bool(self.kafka_topic):
            raise ValueError("give both of --kafka_servers and --kafka_topic, or none")
        if not self.events_file and not self.kafka_topic:
            raise ValueError("give --events_file, or --kafka_servers and --kafka_topic")

    def sources(self, log: LogArguments) -> list[Source]:
        """Where events come from."""
        sources = []
        if self.events_file:
            as_written = [log.user_column, log.item_column, *times_as_text(log.time_column, log.time_format)]
            options = {"id_columns": as_written, "delimiter": log.delimiter, "column_names": log.column_names}
            sources.append(file_source(self.events_file, **options))
        if self.kafka_topic:
            try:
                sources.append(kafka_source(self.kafka_servers, self.kafka_topic))
            except ImportError as error:
                raise ValueError(str(error)) from error
        return sources


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    kinds = (UpdateArguments, LogArguments, ModelArguments, RecommendationTrainingArguments)
    parser = HfArgumentParser(kinds, prog="hf-rec update", description=__doc__)
    update, log, model, args = parse(parser, arguments)
    given = {**vars(log), **vars(model)}
    if refused := [name for name in OF_TRAINING if given[name]]:
        raise ValueError(f"an update has no options {refused}; change the model with `hf-rec train` and begin anew")
    names = ("user_column", "item_column", "time_column", "time_format", "filter", "basket_column")
    updates = update_recommender(
        update.sources(log),
        args,
        model_name_or_path=model.model_name_or_path,
        newest_share=update.newest_share,
        min_targets=update.min_targets,
        tolerance=update.tolerance,
        columns=[name for name in model.columns() if name not in DERIVED],
        log={name: getattr(log, name) for name in names},
        config=model.config | ({} if update.include_seen is None else {"exclude_seen": not update.include_seen}),
        event_columns=model.event_columns or (),
        request_columns=model.request_columns or (),
        items=log.open_files(model.items_file) if model.items_file else None,
        item_columns=model.item_columns or (),
        item_column=log.item_column,
        collator=model.collator,
        max_length=model.max_length,
        patience=model.early_stopping_patience,
        new_item_loss=model.new_item_loss,
        origin=Origin("newest events", "newest events", command_line("hf-rec update", arguments), model.license),
    )
    metric = args.metric_for_best_model.removeprefix("eval_")
    for made in updates:
        print(describe(made, metric))
    print(f"Served: {args.output_dir}/{SERVED}")


def describe(update: Update, metric: str) -> str:
    """A line about an update."""
    if update.candidate is None:
        return f"update {update.number}: the given model is served; {update.events:,} events are known"
    before = "" if update.served is None else f", {update.served:.4f} of the served one"
    decided = "is served" if update.accepted else "is refused, the served one stays"
    return (
        f"update {update.number}: {update.events:,} events, {update.new_items:,} new items; {metric} on the newest "
        f"events of {update.targets:,} users: {update.candidate:.4f} of the new model{before}; the new one {decided}"
    )


if __name__ == "__main__":
    main()
