"""Add the items of a table to the catalogue of a saved recommender, without training."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..data.columns import as_array, id_strings, report
from ..data.files import TableFiles
from ..hub.folder import save_recommender
from ..training.create import load_model
from ..training.growth import STARTS, add_items, remove_items


@dataclass
class AddItemsArguments:
    """The recommender and the items."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    output_dir: str = field(metadata={"help": "Folder of the new recommender; it may be that of the old one."})
    items_file: list[str] | None = field(
        default=None, metadata={"help": "A table with one row for each item; known items are not changed."}
    )
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})
    start: str | None = field(
        default=None,
        metadata={
            "choices": list(STARTS),
            "help": "What a new item begins with: its content alone, that and the ids of the items with the most "
            "similar content, or the mean of all items. Default: similar for models that read content, else mean.",
        },
    )
    remove_items: list[str] = field(default_factory=list, metadata={"help": "Items that are no longer recommended."})

    def __post_init__(self):
        if not self.items_file and not self.remove_items:
            raise ValueError("give --items_file or --remove_items")


def main(arguments: list[str] | None = None) -> None:
    parser = HfArgumentParser(AddItemsArguments, prog="hf-rec add-items", description=__doc__)
    (args,) = parser.parse_args_into_dataclasses(arguments)
    model, tokenizer = load_model(args.model_name_or_path)
    added = []
    if args.items_file:
        items = TableFiles(args.items_file, [args.item_column])
        if args.item_column not in items.column_names:
            raise ValueError(f"no column {args.item_column!r} in the table of items, which has {items.column_names}")
        ids = as_array(items.read([args.item_column])[args.item_column])
        added = add_items(model, tokenizer, ids, items, args.item_column, args.start)
        removed = {*tokenizer.convert_ids_to_tokens(model.config.removed_ids or [])}
        report(len(removed.intersection(id_strings(ids).to_pylist())), len(ids), "items that were removed before")
    remove_items(model, tokenizer, args.remove_items)
    save_recommender(args.output_dir, model, tokenizer)
    print(f"added {len(added):,} items, removed {len(args.remove_items):,}: {args.output_dir}")


if __name__ == "__main__":
    main()
