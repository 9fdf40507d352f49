"""Add vectors of the items' texts, images or sounds to a table of items, for `hf-rec train --item_columns`."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from transformers import HfArgumentParser

from ..data.embed import ENCODERS, add_vectors, embed, join_texts
from ..data.files import TableFiles
from .arguments import items_of_log


@dataclass
class EmbedArguments:
    """The items, and what is read of them."""

    items_file: list[str] = field(
        metadata={"help": "A table with one row for each item: Parquet, CSV or JSON lines files."}
    )
    model_name_or_path: str = field(metadata={"help": "An encoder: a folder or a model of the Hub."})
    output_file: Path = field(metadata={"help": "The table with the vectors, a Parquet file."})
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of text, which are joined to one text for each item."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of images: their paths or their bytes."})
    audio_column: str | None = field(default=None, metadata={"help": "Column of sounds: their paths or their bytes."})
    output_column: str | None = field(
        default=None, metadata={"help": "Name of the new column; default: 'text', 'image' or 'audio'."}
    )
    items_from_log: bool = field(
        default=False,
        metadata={
            "help": "--items_file is an interaction log: the output has one row for each item, with its most frequent "
            "values."
        },
    )
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})
    filter: str | None = field(
        default=None, metadata={"help": "Rows of the log that are read, as an expression in SQL over its columns."}
    )
    batch_size: int = field(default=64, metadata={"help": "Items that are encoded together."})

    def __post_init__(self):
        if sum(map(bool, (self.text_columns, self.image_column, self.audio_column))) != 1:
            raise ValueError("give one of --text_columns, --image_column and --audio_column")
        if self.output_file.suffix != ".parquet":
            raise ValueError(f"--output_file is a .parquet file, got {self.output_file}")
        if self.batch_size < 1:
            raise ValueError(f"--batch_size must be at least 1, got {self.batch_size}")
        if self.filter and not self.items_from_log:
            raise ValueError("--filter needs --items_from_log")

    @property
    def modality(self) -> str:
        return "text" if self.text_columns else "image" if self.image_column else "audio"

    @property
    def columns(self) -> list[str]:
        return self.text_columns or [self.image_column or self.audio_column]


def main(arguments: list[str] | None = None) -> None:
    (args,) = HfArgumentParser(EmbedArguments, prog="hf-rec embed", description=__doc__).parse_args_into_dataclasses(
        arguments
    )
    table = read_items(args)
    if missing := sorted({*args.columns} - {*table.column_names}):
        raise ValueError(f"no column {missing} in the table of items, which has {table.column_names}")
    name = args.output_column or args.modality
    if name in table.column_names:
        raise ValueError(f"the table already has a column {name!r}; give --output_column")
    values = join_texts(table, args.columns) if args.text_columns else table[args.columns[0]].to_pylist()
    parts = args.output_file.with_name(f"{args.output_file.name}.parts")
    identity = {"model": args.model_name_or_path, "modality": args.modality}
    vectors = embed(values, ENCODERS[args.modality](args.model_name_or_path), parts, identity, args.batch_size)
    add_vectors(table, name, vectors, args.output_file)
    shutil.rmtree(parts)
    print(
        f"{len(vectors) - vectors.null_count:,} of {len(vectors):,} items have a vector {name!r}: {args.output_file}"
    )


def read_items(args: EmbedArguments) -> pa.Table:
    files = TableFiles(args.items_file, [args.item_column])
    return items_of_log(files, args.item_column, args.columns, args.filter) if args.items_from_log else files.read()


if __name__ == "__main__":
    main()
