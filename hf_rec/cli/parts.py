"""A file of lists that is written in parts, so that an interrupted run goes on where it stopped."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..data.files import write_whole
from ..hub.folder import write_json
from ..model.item_columns import ItemColumns
from ..model.pipeline_bert4rec import RecommendationPipeline
from ..training.checkpoints import differences_of, fingerprint_weights

SUFFIXES = (".parquet", ".jsonl")
IDENTITY, LOCK = "identity.json", ".lock"


class PartsFile:
    """A Parquet or JSON lines file, whose parts lie in a folder beside it until all are there.

    The rows of a part are computed and written together, so the rows that are held do not grow with the file.

    Args:
        file: Ends in .parquet or .jsonl.
        schema: Of the rows.
        identity: What decides on the rows, as JSON. The parts of a run with another identity are refused.

    Raises:
        ValueError: for another suffix, and when writing for a file that exists, a folder in use, and parts of another
            run.
    """

    def __init__(self, file: Path, schema: pa.Schema, identity: dict[str, Any]):
        if file.suffix not in SUFFIXES:
            raise ValueError(f"the output file ends in one of {SUFFIXES}, got {file}")
        self.file = file
        self.schema = schema
        self.identity = json.loads(json.dumps(identity))
        self.folder = file.with_name(f"{file.name}.parts")

    def write(self, count: int, size: int, rows_of: Callable[[int, int], list[dict]]) -> None:
        """Write the rows 0 to `count`.

        Args:
            size: Rows of a part.
            rows_of: Gives the rows from a start to an end.
        """
        if self.file.exists():
            raise ValueError(f"{self.file} exists; remove it or give another --output_file")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, timeout=0):
                self.check_identity()
                self.write_parts(count, size, rows_of)
                write_whole(self.file, lambda stream: self.join(stream, self.parts(count, size)))
        except Timeout as error:
            raise ValueError(
                f"another run writes to {self.folder}; wait for it or give another --output_file"
            ) from error
        shutil.rmtree(self.folder)

    def check_identity(self) -> None:
        """Raise if the folder holds parts of another run."""
        file = self.folder / IDENTITY
        if not file.is_file():
            return write_json(file, self.identity)
        if differences := [*differences_of(json.loads(file.read_text(encoding="utf-8")), self.identity)]:
            raise ValueError(
                f"{self.folder} holds parts of another run: {'; '.join(differences)}; remove it or give another "
                "--output_file"
            )

    def parts(self, count: int, size: int) -> Iterator[tuple[Path, int, int]]:
        """The file of each part with its first row and the one after its last."""
        for number, start in enumerate(range(0, count, size)):
            yield self.folder / f"part-{number:06}{self.file.suffix}", start, min(start + size, count)

    def write_parts(self, count: int, size: int, rows_of: Callable[[int, int], list[dict]]) -> None:
        missing = [part for part in self.parts(count, size) if not part[0].is_file()]
        done = count - sum(end - start for _, start, end in missing)
        with tqdm(total=count, initial=done, desc=self.file.name, unit="user") as progress:
            for file, start, end in missing:
                rows = rows_of(start, end)
                write_whole(file, lambda stream, rows=rows: self.write_rows(stream, rows))
                progress.update(end - start)

    def write_rows(self, stream, rows: list[dict]) -> None:
        if self.file.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows, self.schema), stream)
        else:
            stream.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows)

    def join(self, stream, parts) -> None:
        """Write the rows of all parts, one part after the other."""
        if self.file.suffix == ".parquet":
            with pq.ParquetWriter(stream, self.schema) as writer:
                for file, _, _ in parts:
                    writer.write_table(pq.read_table(file, schema=self.schema))
        else:
            for file, _, _ in parts:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, stream)


def list_schema(has_titles: bool, explain_rules: bool) -> pa.Schema:
    """The columns of the lists of users in a file."""
    entry = {"item_id": pa.string(), "score": pa.float32()}
    if has_titles:
        entry["title"] = pa.string()
    if explain_rules:
        entry |= {"score_without_rules": pa.float32(), "place_without_rules": pa.int64()}
        entry["rules"] = pa.list_(pa.string())
    return pa.schema({"user_id": pa.string(), "recommended": pa.list_(pa.struct(entry))})


def identify_model(recommend: RecommendationPipeline) -> dict[str, str]:
    """What decides on the lists of a recommender: hashes of its weights, configuration, items and their columns."""
    model = recommend.model
    if isinstance(model, torch.nn.Module):
        weights = fingerprint_weights(model)
    else:
        weights = fingerprint(*(file.read_bytes() for file in sorted(Path(recommend.source[0]).glob("*.onnx*"))))
    return {
        "weights": weights,
        "config": fingerprint(model.config.to_json_string().encode()),
        "items": fingerprint(json.dumps(recommend.id_of_item, sort_keys=True).encode()),
        "item_columns": fingerprint_items(model.item_columns),
    }


def fingerprint_items(items: ItemColumns | None) -> str | None:
    """A hash of item columns."""
    if items is None:
        return None
    arrays = [*items.numbers.values(), *(codes for _, codes in items.categories.values())]
    arrays += [array for texts in items.texts.values() for array in texts]
    names = [items.kinds, {name: values.names for name, values in items.categories.items()}]
    return fingerprint(json.dumps(names).encode(), *(np.ascontiguousarray(array).data for array in arrays))


def fingerprint(*contents) -> str:
    found = hashlib.blake2b(digest_size=16)
    for content in contents:
        found.update(content)
    return found.hexdigest()


__all__ = ["PartsFile", "fingerprint", "fingerprint_items", "identify_model", "list_schema"]
