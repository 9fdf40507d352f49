"""Folders of prepared sequences that several tests share."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from hf_rec.data.columns import as_array

LISTS = {"user_id", "item_ids", "timestamps"}


def write_prepared(folder: Path, sequences: Dataset, shards: int = 4, group: int = 7) -> Path:
    """The folder of sequences as `hf-rec prepare` writes it: users are dealt to shards, and sorted there."""
    (folder / "sequences").mkdir(parents=True)
    table = sequences.with_format("arrow")[:]
    items = as_array(table["item_ids"]).flatten()
    counts = pc.value_counts(items)  # in order of first appearance
    catalogue = {"item_id": counts.field("values").cast(pa.string()), "count": counts.field("counts")}
    pq.write_table(pa.table(catalogue), folder / "items.parquet")
    for shard in range(shards):
        rows = table.take(pa.array(np.arange(shard, len(table), shards))).sort_by("user_id")
        path = folder / "sequences" / f"part-{shard:05}-of-{shards:05}.parquet"
        pq.write_table(rows, path, row_group_size=group)
    manifest = {
        "version": 1,
        "arguments": {},
        "columns": {field.name: str(field.type.value_type) for field in table.schema if field.name not in LISTS},
        "shards": shards,
        "counts": {},
        "num_users": len(table),
        "num_items": len(counts),
        "num_events": len(items),
    }
    (folder / "prepare.json").write_text(json.dumps(manifest))
    return folder


def shard_files(folder: Path) -> list[Path]:
    return sorted((folder / "sequences").iterdir())
