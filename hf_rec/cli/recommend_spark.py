"""Lists of all users of prepared sequences, computed by the workers of Spark."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset

from ..data.files import MANIFEST, SEQUENCES, is_address
from ..data.spark import spark_session, worker_errors
from ..model.features import TIMES
from ..model.pipeline_bert4rec import RecommendationPipeline
from ..prepare.shards import WORK
from ..serving.models import open_recommender
from .arguments import LogArguments
from .lists import Requests, with_titles
from .parts import SUFFIXES

BATCH = 1_024  # users whose lists a task computes together
FORMATS = dict(zip(SUFFIXES, ("parquet", "json"), strict=True))


@dataclass(frozen=True)
class ListsOfUsers:
    """From frames of sequences to frames of lists.

    Args:
        model_name_or_path: A saved recommender or its export, which the workers open.
        requests: What is read of the users.
        options: Of a call of the pipeline.
        titles: Of the items.
    """

    model_name_or_path: str
    requests: Requests
    options: dict[str, Any]
    titles: dict[str, str]

    def __call__(self, frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        recommend = open_once(self.model_name_or_path)
        for frame in frames:
            sequences = Dataset(pa.Table.from_pandas(frame, preserve_index=False))
            lists = recommend(self.requests.of(sequences), **self.options)
            named = [with_titles(recommended, self.titles) for recommended in lists]
            yield pd.DataFrame({"user_id": frame["user_id"], "recommended": named})


@cache
def open_once(model_name_or_path: str) -> RecommendationPipeline:
    """The recommender of a worker, in one thread, as each core of a worker has a task."""
    return open_recommender(model_name_or_path, threads=1)


def write_with_spark(
    args, log: LogArguments, requests: Requests, options: dict[str, Any], titles: dict[str, str], schema: pa.Schema
) -> None:
    """Write the lists of all users to the folder --output_file, in files of Parquet or JSON lines.

    Args:
        args: Of `hf-rec recommend`; its paths must be the same ones for all workers.
        schema: Of the lists.

    Raises:
        ValueError: for an output that exists, a log in place of sequences, options of a log, and missing columns.
    """
    if args.output_file.suffix not in FORMATS:
        raise ValueError(f"the output file ends in one of {SUFFIXES}, got {args.output_file}")
    given = [field.name for field in fields(log) if getattr(log, field.name) != getattr(LogArguments, field.name)]
    if given := sorted({*given} - {"item_column"}):  # of the titles
        raise ValueError(f"{given} are options for a log, but --engine spark reads sequences")
    mode = "overwrite" if is_unfinished(args.output_file) else "error"
    paths = [sequences_path(path) for path in args.file]
    model = args.model_name_or_path
    function = ListsOfUsers(str(Path(model).absolute()) if Path(model).exists() else model, requests, options, titles)
    with spark_session(args.spark_master, BATCH) as session, worker_errors():
        from pyspark.sql.pandas.types import from_arrow_schema

        sequences = session.read.parquet(*paths)
        columns = needed_columns(requests)
        if missing := sorted({*columns} - {*sequences.columns}):
            raise ValueError(
                f"no column {missing} in {args.file}, which has {sequences.columns}; `hf-rec prepare` makes sequences "
                "of a log, with --event_columns that the model reads"
            )
        lists = sequences.select(columns).mapInPandas(function, from_arrow_schema(schema))
        lists.write.format(FORMATS[args.output_file.suffix]).mode(mode).save(str(args.output_file.absolute()))


def needed_columns(requests: Requests) -> list[str]:
    """The columns of sequences that are read."""
    timed = [TIMES] if requests.rules is not None and requests.rules.needs_timestamps else []
    read = [feature.column for feature in requests.features]
    return list(dict.fromkeys(["user_id", "item_ids", *read, *requests.keys, *timed]))


def is_unfinished(folder: Path) -> bool:
    """Whether an interrupted job of Spark left a folder.

    Raises:
        ValueError: for anything else that exists.
    """
    if not folder.exists():
        return False
    if folder.is_file() or not (folder / "_temporary").is_dir():
        raise ValueError(f"{folder} exists; remove it or give another --output_file")
    return True


def sequences_path(path: str) -> str:
    """Where the sequences of a prepared folder are, or other files of sequences."""
    if is_address(path):
        return path
    folder = Path(path).absolute()
    if (folder / WORK).is_dir() and not (folder / MANIFEST).is_file():
        raise ValueError(f"{path} is not complete; repeat the call of `hf-rec prepare`")
    return str(folder / SEQUENCES if (folder / MANIFEST).is_file() else folder)
