"""List the items that are the most similar to given ones."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..serving.models import open_recommender
from ..serving.vectors import SIMILARITIES, similar_items
from .recommend import print_json


@dataclass
class SimilarArguments:
    """The model and the items."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, or folder of its export."})
    item_id: list[str] = field(metadata={"help": "Item ids."})
    by: str = field(
        default="model",
        metadata={
            "choices": [*SIMILARITIES],
            "help": "The vectors by which the model scores items, or the content that it reads of them.",
        },
    )
    top_k: int = field(default=10, metadata={"help": "Length of the lists."})


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object a line: an item, and those that are similar."""
    parser = HfArgumentParser(SimilarArguments, prog="hf-rec similar", description=__doc__)
    (args,) = parser.parse_args_into_dataclasses(arguments)
    recommend = open_recommender(args.model_name_or_path)
    for item_id in args.item_id:
        print_json({"item_id": item_id, "similar": similar_items(recommend, item_id, args.top_k, args.by)})


if __name__ == "__main__":
    main()
