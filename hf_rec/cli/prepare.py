"""Write the sequences of a log of any size to a folder of shards, from which `hf-rec train` reads them.

A call that was interrupted goes on where it stopped when it is repeated.
"""

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..data.encode import DERIVED, split_name
from ..prepare.log import LogColumns, LogFiles
from ..prepare.prepare import ENGINES, LEFT_OUT, prepare_sequences
from .arguments import NO_USERS, LogArguments


@dataclass
class PrepareArguments(LogArguments):
    """The log, the folder, and the engine."""

    log: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Interactions, or sequences that get new shards: Parquet, CSV or JSON lines files, folders or "
            "patterns of them, also with addresses as s3://bucket/*.parquet; may be given without the name."
        },
    )
    output_dir: str = field(default="", metadata={"help": "New folder, or that of an interrupted call."})
    engine: str = field(
        default="arrow",
        metadata={
            "choices": list(ENGINES),
            "help": "arrow: all rows in memory; duckdb: one shard in memory, the rest on the disk; spark: a cluster.",
        },
    )
    num_shards: int | None = field(
        default=None, metadata={"help": "Files of sequences; default: one for each 64 MiB of the log, at least 16."}
    )
    event_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns that are kept, as for `hf-rec train`."}
    )
    request_columns: list[str] | None = field(
        default=None, metadata={"help": "Further columns that are kept, as for `hf-rec train`."}
    )
    min_user_count: int = field(default=1, metadata={"help": "Leave out users with fewer interactions."})
    min_item_count: int = field(default=1, metadata={"help": "Leave out items with fewer interactions."})
    memory_limit: str | None = field(
        default=None, metadata={"help": "Of DuckDB, as 4GB; default: most of the memory of the machine."}
    )
    spark_master: str | None = field(
        default=None,
        metadata={"help": "Address of Spark, as spark://host:7077 or local[4]; default: that of spark-submit."},
    )

    def __post_init__(self):
        if not self.log or not self.output_dir:
            raise ValueError("give a log and --output_dir")
        if self.users_file:
            raise ValueError(NO_USERS)

    @property
    def kept(self) -> list[str]:
        """The columns of the log that are kept; features of the times need no column."""
        columns = [split_name(column)[0] for column in [*(self.event_columns or ()), *(self.request_columns or ())]]
        if not {*DERIVED}.intersection(columns):
            return columns
        ids = LogColumns(self.user_column, self.item_column, self.time_column)
        known = LogFiles(self.log, ids, delimiter=self.delimiter, column_names=self.column_names).column_names
        return [name for name in columns if name in known or name not in DERIVED]


def main(arguments: list[str] | None = None) -> None:
    parser = HfArgumentParser(PrepareArguments, prog="hf-rec prepare", description=__doc__)
    (args,) = parser.parse_args_into_dataclasses(name_log(sys.argv[1:] if arguments is None else arguments))
    options = {name: value for name, value in vars(args).items() if name not in ("users_file", "request_columns")}
    try:
        manifest = prepare_sequences(**options | {"event_columns": args.kept})
    except ImportError as error:
        raise ValueError(str(error)) from error
    counts = manifest["counts"]
    print(
        f"{manifest['num_users']:,} users, {manifest['num_items']:,} items and {manifest['num_events']:,} events of "
        f"{counts['rows']:,} rows, in {manifest['shards']} shards; left out: "
        + ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in LEFT_OUT)
    )
    print(f"Train: hf-rec train --train_file {args.output_dir} --output_dir my-recommender")


def name_log(arguments: list[str]) -> list[str]:
    """`hf-rec prepare LOG...` is short for `hf-rec prepare --log LOG...`."""
    return ["--log", *arguments] if arguments and not arguments[0].startswith("-") else arguments


if __name__ == "__main__":
    main()
