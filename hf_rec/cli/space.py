"""Write a page that people can try, as a Hugging Face Space, and push it on request."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, pipeline

from ..data.files import TableFiles
from ..data.items import item_columns
from ..data.tokenization_items import ItemTokenizer
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.item_columns import ItemColumns
from ..model.pipeline_bert4rec import TITLE
from ..space.folder import push_space, write_space
from .arguments import FLAG


@dataclass
class SpaceArguments:
    """The recommender of the page, and where the page goes."""

    model_name_or_path: str = field(
        metadata={"help": "Folder of the recommender, which is copied, or its Hub id. The first argument, too."}
    )
    output_dir: Path = field(metadata={"help": "New folder of the Space."})
    title: str | None = field(default=None, metadata={"help": "Of the page; default: from the name of the model."})
    items_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "A table with one row for each item, in place of the saved item columns; the model is copied with "
            "it, also from the Hub."
        },
    )
    item_column: str = field(default="item_id", metadata={"help": "Column of the item in this table."})
    title_column: str = field(default="title", metadata={"help": "Column of the title in this table."})
    kept_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Other columns of this table: categories, by which the page filters, and what rules read."},
    )
    push: str | None = field(default=None, metadata={"help": "Also push the Space to this id of the Hub."})
    private: bool | None = field(default=None, metadata={**FLAG, "help": "Make the pushed Space private."})

    def __post_init__(self):
        if self.kept_columns and not self.items_file:
            raise ValueError("--kept_columns are columns of the --items_file; give both")
        if self.private is not None and not self.push:
            raise ValueError("--private is for a Space that is pushed; give --push, too")
        if (Path(self.model_name_or_path) / "export.json").is_file():
            raise ValueError(f"{self.model_name_or_path} is an export; give the recommender that was exported")

    def load_items(self, tokenizer: ItemTokenizer) -> ItemColumns:
        """The item columns of the table."""
        table = TableFiles(self.items_file, [self.item_column])
        names = [f"{self.title_column}:text", *(self.kept_columns or ())]
        items = item_columns(table, tokenizer.item_ids, names, self.item_column)
        items.texts[TITLE] = items.texts.pop(self.title_column)
        return items


def main(arguments: list[str] | None = None) -> None:
    """Write the page, and say how to run it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--model_name_or_path", *arguments]
    parser = HfArgumentParser(SpaceArguments, prog="hf-rec space", description=__doc__)
    (args,) = parser.parse_args_into_dataclasses(arguments)
    name = args.model_name_or_path
    if Bert4RecConfig.from_pretrained(name).label_of:
        raise ValueError(f"{name} is a classifier; the page needs a recommender")
    recommend = pipeline("recommendation", model=name)
    if args.items_file:
        recommend.model.item_columns = args.load_items(recommend.tokenizer)
    recommend([[]])  # raises for saved rules that do not fit the item columns
    copied = bool(args.items_file) or Path(name).is_dir()
    title = args.title or f"Recommendations of {Path(name).resolve().name}"
    write_space(args.output_dir, recommend, title, None if copied else name)
    print(f"Try: cd {args.output_dir} && python app.py")
    if args.push:
        push_space(args.output_dir, args.push, args.private)
        print(f"Pushed: https://huggingface.co/spaces/{args.push}")


if __name__ == "__main__":
    main()
