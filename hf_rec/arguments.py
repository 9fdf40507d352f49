"""Command-line arguments that the scripts share."""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetDict, load_dataset

from .data import PRESETS, build_sequences, leave_one_out, load_preset, temporal_split

# Arguments that tell of a table, and not of a data set that is known by name.
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
        default=None, metadata={"help": f"Instead of --train_file: {', '.join(PRESETS)}, or a data set of the Hub."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub data set that holds the log."})
    user_column: str = field(default="user_id", metadata={"help": "Column of the user."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})
    time_column: str | None = field(
        default=None, metadata={"help": "Column that orders a user's items; 'timestamp', or else 'position'."}
    )
    min_user_count: int | None = field(
        default=None,
        metadata={"help": "Leave out users with fewer interactions; none, or as the named data set has it."},
    )
    min_item_count: int | None = field(
        default=None,
        metadata={"help": "Leave out items with fewer interactions; none, or as the named data set has it."},
    )
    split: str = field(
        default="leave-one-out",
        metadata={
            "choices": ["leave-one-out", "temporal"],
            "help": "Hold out each user's last two items, or what comes after a time for all users.",
        },
    )
    include_seen: bool | None = field(
        default=None,
        metadata={
            **FLAG,
            "help": "Whether items of the history are ranked, too; not by a new model, else as it was trained.",
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
        """Name of the data; a file's folder names it, as in `ml-1m/interactions.parquet`, if it is given."""
        return self.dataset_name or Path(self.train_file).parent.name or Path(self.train_file).stem

    def load_splits(self) -> DatasetDict:
        """Training, validation and test data, as [`leave_one_out`] returns them."""
        counts = {"min_user_count": self.min_user_count, "min_item_count": self.min_item_count}
        counts = {name: count for name, count in counts.items() if count is not None}
        if self.dataset_name in PRESETS:
            sequences = load_preset(self.dataset_name, **counts)
        else:
            log = self.train_file or load_dataset(
                self.dataset_name, self.dataset_config_name, split=self.dataset_split
            )
            sequences = build_sequences(log, self.user_column, self.item_column, self.time_column, **counts)
        return leave_one_out(sequences) if self.split == "leave-one-out" else temporal_split(sequences)


__all__ = ["FLAG", "DataArguments"]
