"""The task of `hf-rec train`: recommendation, or classification of what users do."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from datasets import DatasetDict

from ..data.labels import add_event_labels, split_users
from ..data.splits import LABEL
from ..model.configuration_bert4rec import LABELLED
from .arguments import DataArguments, given_options


@dataclass
class TaskArguments:
    """What the model learns."""

    task: str = field(
        default="recommendation",
        metadata={
            "choices": ["recommendation", "classification"],
            "help": "Rank the items that may follow, or predict a label of an event or of the user.",
        },
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "classification: the label, a column or an expression in SQL such as 'rating >= 4'. Fractions are "
            "a regression, all else are classes."
        },
    )
    label_of: str = field(
        default="event",
        metadata={
            "choices": list(LABELLED),
            "help": "classification: whether the label is of the events of the log, whose item is known; of the next "
            "event, whose item is not; or of the users in --users_file, with one row and one label for each; a column "
            "of times there ends what is read of a user.",
        },
    )
    label_probability: float = field(
        default=0.3,
        metadata={
            "help": "classification: share of the labelled events of a history that a causal model learns in one pass."
        },
    )

    def __post_init__(self):
        if self.task == "classification" and not self.label_column:
            raise ValueError("--task classification needs --label_column")
        given = given_options(self, ("label_column", "label_of", "label_probability"))
        if self.task == "recommendation" and given:
            raise ValueError(f"{given} need --task classification")

    def refuse(self, data: DataArguments, given: Iterable[str] = ()) -> None:
        """Raise for options that a classifier does not read, those of the data and the given ones, for missing ones,
        and for data without labels."""
        names = ["hold_out_items", "include_seen", "basket_column"]
        if self.label_of == "user":
            if not data.users_file:
                raise ValueError("--label_of user needs --users_file, the table with the labels")
            names += ["split", "test_file", "target_events"]
        given = [*given_options(data, names), *given]
        given += given_options(self, ["label_probability"]) if self.label_of != "event" else []
        if given:
            raise ValueError(f"{given} are no options of a classifier with a label of the {self.label_of}")
        if data.prepared:
            raise ValueError(
                f"{data.train_file[0]} holds sequences of `hf-rec prepare`, which have no labels; give the log itself"
            )

    def load_splits(self, data: DataArguments, columns: list[str]) -> DatasetDict:
        """Splits with labels, as [`train_classifier`] takes them.

        Args:
            columns: Columns of features that are kept.
        """
        if self.label_of != "user":
            return EventLabels(**vars(data), label=self.label_column).load_splits(columns)
        log, users = data.open_log(), data.open_files(data.users_file)
        if {*users.column_names}.isdisjoint({*columns} - {*log.column_names}):
            data = replace(data, users_file=None)  # it has labels alone
        sequences = data.load_sequences(log, columns, **data.build_options)
        names = {"user_column": data.user_column, "time_column": data.time_column, "time_format": data.time_format}
        return split_users(sequences, users, self.label_column, **names)

    def split_name(self, data: DataArguments) -> str:
        """How the data are split, for a card."""
        return "random users" if self.label_of == "user" else data.split_name


@dataclass
class EventLabels(DataArguments):
    """A log whose sequences have a label for each event."""

    label: str = ""

    def load_sequences(self, log, columns: list[str], **options):
        return super().load_sequences(add_event_labels(log, self.label), [*columns, LABEL], **options)


__all__ = ["TaskArguments"]
