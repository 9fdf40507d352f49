"""Command-line arguments that several commands share."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset

from ..data.encode import DERIVED
from ..data.expressions import columns_of, filter_table
from ..data.files import TableFiles, is_prepared, times_as_text
from ..data.items import item_columns, one_row_each
from ..data.sequences import build_sequences, read_sequences
from ..data.shards import SequenceShards
from ..data.sources import PRESETS, as_table, column_names, load_log
from ..data.splits import join_splits, leave_one_out, temporal_cuts, temporal_split
from ..data.streams import TrainingShards
from ..data.tokenization_items import ItemTokenizer
from ..data.users import join_users
from ..model.features import Feature
from ..model.item_columns import ItemColumns
from ..model.rules import Eligible, Rule, read_rules

# Options that are valid only for a table of the user's own.
TABLE = (
    *("dataset_config_name", "dataset_split", "user_column", "item_column", "time_column", "time_format"),
    "basket_column",
)
# Options that have no meaning for prepared sequences.
OF_LOG = (
    *(*TABLE, "delimiter", "column_names", "filter", "min_user_count", "min_item_count"),
    *("validation_file", "test_file"),
)
NO_USERS = (
    "--users_file is read with a log, not with sequences of `hf-rec prepare`; add its columns to the rows of the log "
    "and name them in --request_columns"
)
FLAG = {"nargs": "?", "const": True}  # of a field that is None unless it is given, alone or with "true" or "false"


def given_options(arguments, names: Iterable[str]) -> list[str]:
    """The options of a dataclass, among those that are named, that do not have their default values, as flags."""
    return [f"--{name}" for name in names if getattr(arguments, name) != getattr(type(arguments), name)]


@dataclass
class LogArguments:
    """How the rows of a log are read."""

    user_column: str = field(default="user_id", metadata={"help": "Column of the user."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})
    time_column: str | None = field(
        default=None, metadata={"help": "Column that orders a user's items; default: 'timestamp', or else 'position'."}
    )
    time_format: str | None = field(
        default=None, metadata={"help": "How times are written as text, such as '%%d/%%m/%%Y %%H:%%M'."}
    )
    delimiter: str | None = field(default=None, metadata={"help": "Of text files; default: that of the file's kind."})
    column_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the columns of text files without a header."}
    )
    filter: str | None = field(
        default=None,
        metadata={
            "help": "Rows that are read, as an expression in SQL over the columns: 'Quantity > 0 and UnitPrice > 0'."
        },
    )
    basket_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the basket (order, session). Its items have no order: training shuffles them, and "
            "leave-one-out predicts from the baskets before."
        },
    )
    users_file: list[str] | None = field(
        default=None,
        metadata={"help": "A table with one row for each user, its id in --user_column; files as for the log."},
    )

    def open_files(self, files: list[str]) -> TableFiles:
        as_written = [self.user_column, self.item_column, *times_as_text(self.time_column, self.time_format)]
        return TableFiles(files, as_written, self.delimiter, self.column_names)

    def load_sequences(self, log, columns: list[str], **options) -> Dataset:
        """Sequences of a log, or those that it holds already, with the columns of features.

        A column that the log does not have is one of --users_file.

        Args:
            options: Of [`build_sequences`], beside those of the columns.
        """
        users = self.open_files(self.users_file) if self.users_file else None
        known = users.column_names if users else ()
        of_users = [name for name in columns if name in known and name not in log.column_names]
        if users and not of_users:
            raise ValueError(
                f"--users_file was given, but the model reads none of its columns {users.column_names}; name "
                "them with --user_columns"
            )
        others = [name for name in columns if name not in of_users]
        kept = [name for name in others if name in log.column_names or name not in DERIVED]
        options |= {name: getattr(self, name) for name in ("filter", "basket_column") if getattr(self, name)}
        if "item_ids" in log.column_names:
            given = [*given_options(self, ("time_column", "time_format")), *(f"--{name}" for name in sorted(options))]
            if given:
                raise ValueError(f"{given} are options for a log, but sequences were given")
            kept += [name for name in ["basket_ids"] if name in log.column_names]
            sequences = read_sequences(as_table(log, {"user_id", "item_ids", "timestamps", *kept}), kept)
        else:
            names = ("user_column", "item_column", "time_column", "time_format")
            options = {name: getattr(self, name) for name in names} | options
            sequences = build_sequences(log, event_columns=kept, **options)
        return join_users(sequences, users, of_users, self.user_column) if of_users else sequences


@dataclass
class DataArguments(LogArguments):
    """Where the interactions are and how they are split."""

    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Interaction log, one row for each interaction, or a sequence of item_ids for each user_id: "
            "Parquet, CSV or JSON lines files, folders or patterns of them; or a folder of `hf-rec prepare`."
        },
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "What the users did next, in place of --split; with --test_file."}
    )
    test_file: list[str] | None = field(
        default=None, metadata={"help": "What the users did after that, in place of --split; with --validation_file."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": f"In place of --train_file: {', '.join(PRESETS)}, or a data set of the Hub."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub data set that holds the log."})
    min_user_count: int | None = field(
        default=None,
        metadata={"help": "Leave out users with fewer interactions; default: none, or as in the named data set."},
    )
    min_item_count: int | None = field(
        default=None,
        metadata={"help": "Leave out items with fewer interactions; default: none, or as in the named data set."},
    )
    sample_users: int = field(
        default=20_000,
        metadata={
            "help": "Of a folder of `hf-rec prepare`: users that are drawn for evaluation, the baselines and the fit "
            "of features, and held in memory; 0 for all."
        },
    )
    split: str = field(
        default="leave-one-out",
        metadata={
            "choices": ["leave-one-out", "temporal"],
            "help": "Hold out each user's last two items, or all that comes after a point in time.",
        },
    )
    target_events: list[str] | None = field(
        default=None,
        metadata={
            "help": "Events that are predicted in validation and test, as column=value: event_type=purchase; default: "
            "all. Histories have events of all kinds."
        },
    )
    hold_out_items: float = field(
        default=0.0,
        metadata={
            "help": "Share of the items, the newest ones, that are left out of training and added afterwards; results "
            "are also given for them (cold) and for the others (warm)."
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
        if (self.validation_file is None) != (self.test_file is None):
            raise ValueError("give both of --validation_file and --test_file, or none")
        if self.test_file and not self.train_file:
            raise ValueError("--validation_file and --test_file need --train_file")
        of_others = ["split"] if self.test_file else []
        of_others += ["dataset_config_name", "dataset_split"] if self.train_file else ["delimiter", "column_names"]
        if unread := given_options(self, of_others):
            raise ValueError(f"{unread} are not read with these files or this data set; leave them out")
        given = given_options(self, TABLE)
        if given and self.dataset_name in PRESETS:
            raise ValueError(f"the columns and the split of {self.dataset_name} are known; do not give {given}")

    @property
    def exclude_seen(self) -> bool | None:
        return None if self.include_seen is None else not self.include_seen

    @property
    def ranking(self) -> dict[str, bool]:
        """The field of a model's configuration that --include_seen sets; nothing if it was not given."""
        return {} if self.exclude_seen is None else {"exclude_seen": self.exclude_seen}

    def refuse(self, *names: str) -> None:
        """Raise for options, named here, that were given to a command that does not read them."""
        if given := given_options(self, names):
            raise ValueError(f"{given} are not read here; leave them out")

    @property
    def hub_dataset(self) -> str | None:
        """Id of the data set, if it comes from the Hub."""
        return None if self.dataset_name in PRESETS else self.dataset_name

    @property
    def title(self) -> str:
        """Name of the data: of a file its folder, as in `ml-1m/interactions.parquet`, or else its own name."""
        if self.dataset_name:
            return self.dataset_name
        file = Path(self.train_file[0])
        return file.parent.name or file.stem

    @property
    def split_name(self) -> str:
        """How the data are split, for a card."""
        return "given files" if self.test_file else self.split

    def load_splits(self, columns: Iterable[str] = ()) -> DatasetDict:
        """Training, validation and test data, as [`leave_one_out`] returns them.

        Args:
            columns: Columns of features that are kept; those that are computed from the timestamps may be missing.
        """
        targets, options = self.targets, self.build_options
        columns = list(dict.fromkeys([*columns, *(targets or ())]))
        if self.prepared:
            return self.split_sequences(self.draw_sample(columns))
        if self.sample_users != DataArguments.sample_users:
            raise ValueError("--sample_users draws users of a folder of `hf-rec prepare`; a log is read as a whole")
        if self.test_file:
            parts = (self.train_file, self.validation_file, self.test_file)
            sequences = [self.load_sequences(self.open_files(files), columns, **options) for files in parts]
            return join_splits(*sequences, target_events=targets)
        return self.split_sequences(self.load_sequences(self.open_log(), columns, **options))

    def split_sequences(self, sequences: Dataset) -> DatasetDict:
        split = leave_one_out if self.split == "leave-one-out" else temporal_split
        return split(sequences, target_events=self.targets)

    @property
    def prepared(self) -> bool:
        """Whether the log is a folder of `hf-rec prepare`."""
        return bool(self.train_file) and len(self.train_file) == 1 and is_prepared(self.train_file[0])

    def kept_of_shards(self, columns: Iterable[str]) -> tuple[SequenceShards, list[str]]:
        """The prepared shards and their columns that are read.

        Raises:
            ValueError: for options of a log.
        """
        if self.users_file:
            raise ValueError(NO_USERS)
        if given := given_options(self, OF_LOG):
            raise ValueError(f"{given} are options of a log; give them to `hf-rec prepare`, which wrote this folder")
        shards = SequenceShards(self.train_file[0])
        baskets = {"basket_ids"} & {*shards.column_names}
        columns = dict.fromkeys([*columns, *(self.targets or ()), *baskets])
        return shards, [name for name in columns if name in shards.column_names or name not in DERIVED]

    def draw_sample(self, columns: Iterable[str]) -> Dataset:
        shards, columns = self.kept_of_shards(columns)
        return shards.sample(self.sample_users, columns)

    def load_shards(self, columns: Iterable[str], streaming: bool) -> tuple[DatasetDict, TrainingShards]:
        """The splits of a sample of the users of prepared shards, and the training part of all users.

        Args:
            columns: As for [`load_splits`].
        """
        shards, columns = self.kept_of_shards(columns)
        shards.check_users()
        sample = shards.sample(self.sample_users, columns)
        start = temporal_cuts(sample)[0] if self.split == "temporal" else None
        training = TrainingShards(shards, len(sample), columns, self.targets, start, streaming)
        return self.split_sequences(sample), training

    def items_of_log(self, columns: Iterable[str]) -> pa.Table:
        """A row for each item with its most frequent value of each column of the log."""
        return items_of_log(self.open_log(), self.item_column, columns, self.filter)

    @property
    def targets(self) -> dict[str, list[str]] | None:
        """The values of each column that make an event a target; all events if None."""
        targets = {}
        for target in self.target_events or ():
            name, equals, value = target.partition("=")
            if not equals:
                raise ValueError(f"--target_events are column=value, such as event_type=purchase, got {target!r}")
            targets.setdefault(name, []).append(value)
        return targets or None

    @property
    def build_options(self) -> dict[str, int | str]:
        """Options of [`build_sequences`] that were given, or belong to the named data set."""
        counts = {"min_user_count": self.min_user_count, "min_item_count": self.min_item_count}
        known = PRESETS[self.dataset_name]["build"] if self.dataset_name in PRESETS else {}
        return known | {name: count for name, count in counts.items() if count is not None}

    def open_log(self) -> TableFiles | Dataset:
        """The log that was given."""
        if self.train_file:
            return self.open_files(self.train_file)
        if self.dataset_name in PRESETS:
            return load_log(self.dataset_name)
        log = load_dataset(self.dataset_name, self.dataset_config_name, split=self.dataset_split)
        if not isinstance(log, Dataset):
            raise TypeError(f"--dataset_split {self.dataset_split} of {self.dataset_name} is no single split")
        return log


@dataclass
class RuleArguments:
    """The rules that lists obey."""

    rules_file: Path | None = field(
        default=None, metadata={"help": "Rules as JSON, in place of those saved with the model; [] for none."}
    )
    items_file: list[str] | None = field(
        default=None,
        metadata={"help": "A table with one row for each item, for rules and titles, in place of the saved columns."},
    )
    kept_columns: list[str] | None = field(
        default=None, metadata={"help": "Its columns that the rules read, as for `hf-rec train`."}
    )

    def __post_init__(self):
        if bool(self.items_file) != bool(self.kept_columns):
            raise ValueError("give both of --items_file and --kept_columns, or none")

    @property
    def rules(self) -> tuple[Rule, ...] | None:
        """The rules of the file; None for the saved ones."""
        return None if self.rules_file is None else read_rules(self.rules_file)

    def load_items(
        self, tokenizer: ItemTokenizer, item_column: str, counts: np.ndarray | None = None
    ) -> ItemColumns | None:
        """The item columns of the table, with the interactions of each token if they are known; None for the saved
        ones."""
        if not self.items_file:
            return None
        table = TableFiles(self.items_file, [item_column])
        return item_columns(table, tokenizer.item_ids, self.kept_columns, item_column, counts)


def items_of_log(log, item_column: str, columns: Iterable[str], filter: str | None = None) -> pa.Table:
    """A row for each item of a log, with its most frequent value of each column, of the rows for which a filter is
    true."""
    names = column_names(log)
    kept = list(dict.fromkeys([item_column, *columns]))
    if missing := sorted({*kept} - {*names}):
        raise ValueError(f"no column {missing} in the log, which has {names}")
    table = as_table(log, {*kept} | columns_of(filter or "", names))
    table = filter_table(table, filter) if filter else table
    return one_row_each(table.select(kept), item_column)


def feature_columns(features: Iterable[Feature]) -> list[str]:
    """The columns of a log that a saved model reads beside the ids and the times."""
    return [feature.column for feature in features if feature.kind not in DERIVED]


def rule_columns(rules: Iterable[Rule]) -> list[str]:
    """The columns of a log that rules read of requests."""
    return [rule.request for rule in rules if isinstance(rule, Eligible)]


__all__ = [
    "FLAG",
    "DataArguments",
    "LogArguments",
    "RuleArguments",
    "feature_columns",
    "items_of_log",
    "rule_columns",
]
