"""Command-line arguments that several commands share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

from ..data.encode import DERIVED
from ..data.sequences import build_sequences
from ..data.sources import PRESETS, load_log, read_table
from ..data.splits import leave_one_out, temporal_split

# Options that are valid only for a table of the user's own.
TABLE = ("dataset_config_name", "dataset_split", "user_column", "item_column", "time_column")
FLAG = {"nargs": "?", "const": True}  # of a field that is None unless it is given, alone or with "true" or "false"


@dataclass
class DataArguments:
    """Where the interactions are and how they are split."""

    train_file: str | None = field(
        default=None,
        metadata={"help": "Interaction log: a Parquet, CSV or JSON lines file, one row for each interaction."},
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": f"In place of --train_file: {', '.join(PRESETS)}, or a data set of the Hub."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub data set that holds the log."})
    user_column: str = field(default="user_id", metadata={"help": "Column of the user."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})
    time_column: str | None = field(
        default=None, metadata={"help": "Column that orders a user's items; default: 'timestamp', or else 'position'."}
    )
    min_user_count: int | None = field(
        default=None,
        metadata={"help": "Leave out users with fewer interactions; default: none, or as in the named data set."},
    )
    min_item_count: int | None = field(
        default=None,
        metadata={"help": "Leave out items with fewer interactions; default: none, or as in the named data set."},
    )
    split: str = field(
        default="leave-one-out",
        metadata={
            "choices": ["leave-one-out", "temporal"],
            "help": "Hold out each user's last two items, or all that comes after a point in time.",
        },
    )
    include_seen: bool | None = field(
        default=None,
        metadata={
            **FLAG,
            "help": "Also rank items of the history. Default: no for new models, otherwise the saved setting.",
        },
    )

    def __post_init__(self):
        if (self.train_file is None) == (self.dataset_name is None):
            raise ValueError("give one of --train_file and --dataset_name")
        given = [name for name in TABLE if getattr(self, name) != getattr(DataArguments, name)]
        if given and self.dataset_name in PRESETS:
            raise ValueError(f"the columns and the split of {self.dataset_name} are known; do not give {given}")

    @property
    def exclude_seen(self) -> bool | None:
        return None if self.include_seen is None else not self.include_seen

    @property
    def title(self) -> str:
        """Name of the data: of a file its folder, as in `ml-1m/interactions.parquet`, or else its own name."""
        return self.dataset_name or Path(self.train_file).parent.name or Path(self.train_file).stem

    def load_splits(self, columns: Iterable[str] = ()) -> DatasetDict:
        """Training, validation and test data, as [`leave_one_out`] returns them.

        Args:
            columns: Columns of features that are kept; those that are computed from the timestamps may be missing.
        """
        if self.dataset_name in PRESETS:
            log, build = load_log(self.dataset_name), PRESETS[self.dataset_name]["build"]
        else:
            names = ("user_column", "item_column", "time_column")
            log, build = self.load_table(), {name: getattr(self, name) for name in names}
        counts = {"min_user_count": self.min_user_count, "min_item_count": self.min_item_count}
        counts = {name: count for name, count in counts.items() if count is not None}
        kept = [name for name in columns if name in log.column_names or name not in DERIVED]
        sequences = build_sequences(log, event_columns=kept, **(build | counts))
        return leave_one_out(sequences) if self.split == "leave-one-out" else temporal_split(sequences)

    def load_table(self):
        """The user's own log."""
        if self.train_file:
            return read_table(self.train_file, (self.user_column, self.item_column))
        log = load_dataset(self.dataset_name, self.dataset_config_name, split=self.dataset_split)
        if not isinstance(log, Dataset):
            raise TypeError(f"--dataset_split {self.dataset_split} of {self.dataset_name} is no single split")
        return log


def feature_columns(config) -> list[str]:
    """The columns of a log that a saved model reads beside the ids and the times."""
    return [feature.column for feature in config.features if feature.kind not in DERIVED]


__all__ = ["FLAG", "DataArguments", "feature_columns"]
