"""The task of `hf-rec train`: recommendation, or classification of what users do."""

from dataclasses import dataclass, field

from datasets import DatasetDict

from ..data.labels import LABEL, add_event_labels, split_users
from .arguments import DataArguments


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
            "help": "classification: the label, a column or an expression in SQL such as 'rating >= 4', of the log, "
            "or of --users_file if it is given. Fractions are a regression, all else are classes."
        },
    )
    users_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "classification: a table with a row and a label for each user, in --user_column; with a column of "
            "times, only events before the user's time are read. Files as for --train_file."
        },
    )
    label_probability: float = field(
        default=0.3,
        metadata={"help": "classification: share of the labelled events of a history that are learned in one pass."},
    )

    def __post_init__(self):
        if self.task == "classification" and not self.label_column:
            raise ValueError("--task classification needs --label_column")
        if self.task == "recommendation" and (self.label_column or self.users_file):
            raise ValueError("--label_column and --users_file need --task classification")

    def refuse(self, data: DataArguments, model) -> None:
        """Raise for options that a classifier does not read."""
        unread = {"hold_out_items": data.hold_out_items, "include_seen": data.include_seen is not None}
        unread |= {"remove_items": model.remove_items}
        if self.users_file:
            unread |= {"split": data.split != DataArguments.split, "test_file": data.test_file}
        if given := [f"--{name}" for name, value in unread.items() if value]:
            raise ValueError(
                f"{given} are no options of --task classification{' with --users_file' * bool(self.users_file)}"
            )

    @property
    def label_of(self) -> str:
        return "user" if self.users_file else "event"

    def load_splits(self, data: DataArguments, columns: list[str], seed: int) -> DatasetDict:
        """Splits with labels, as [`train_classifier`] takes them.

        Args:
            columns: Columns of features that are kept.
            seed: Of the random split of users.
        """
        if self.users_file:
            sequences = data.load_sequences(data.open_log(), columns, **data.build_options)
            users = data.open_files(self.users_file)
            return split_users(sequences, users, self.label_column, data.user_column, data.time_column, seed)
        return EventLabels(**vars(data), label=self.label_column).load_splits(columns)

    def split_name(self, data: DataArguments) -> str:
        """How the data are split, for a card."""
        return "random users" if self.users_file else data.split_name


@dataclass
class EventLabels(DataArguments):
    """A log whose sequences have a label for each event."""

    label: str = ""

    def load_sequences(self, log, columns: list[str], **options):
        return super().load_sequences(add_event_labels(log, self.label), [*columns, LABEL], **options)


__all__ = ["TaskArguments"]
