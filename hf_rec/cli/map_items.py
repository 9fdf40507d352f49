"""Draw a map of the items of a recommender: items that it takes for similar are near each other."""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, pipeline

from ..data.files import write_whole
from ..explanation.pictures import item_map, map_picture
from ..explanation.report import page
from ..model.pipeline_bert4rec import RecommendationPipeline
from .explain import TitleArguments
from .lists import column_by_item


@dataclass
class MapArguments:
    """The model and the map."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    output_file: Path = field(metadata={"help": "A picture (.png), or a page that shows titles on hover (.html)."})
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of --titles_file, or of the columns saved with the model, that colours the items, such as "
            "genres; of a list its first value."
        },
    )
    method: str = field(default="tsne", metadata={"choices": ["tsne", "umap"], "help": "How the map is made."})
    seed: int = field(default=0, metadata={"help": "Of the map."})

    def __post_init__(self):
        if self.output_file.suffix not in (".html", ".png"):
            raise ValueError(f"--output_file ends in .html or .png, got {self.output_file}")


def main(arguments: list[str] | None = None) -> None:
    parser = HfArgumentParser((MapArguments, TitleArguments), prog="hf-rec map-items", description=__doc__)
    args, names = parser.parse_args_into_dataclasses(arguments)
    recommend = pipeline("recommendation", model=args.model_name_or_path)
    titles, groups = names.titles_of(recommend), groups_of(recommend, args.group_column, names)
    items, places = item_map(recommend, args.method, args.seed)
    bias = recommend.model.scores.bias.detach().tolist()  # larger for popular items
    popular = sorted(items, key=lambda item: -bias[recommend.id_of_item[item]])
    picture = map_picture(items, places, titles, groups, popular)
    if args.output_file.suffix == ".png":
        picture.save(args.output_file)
    else:
        heading = f"Map of {len(items):,} items"
        parts = [f"<h1>{heading}</h1>", f'<div class="picture">{picture.svg()}</div>']
        text = page(heading, parts)
        write_whole(args.output_file, lambda stream: stream.write(text.encode()))
    print(f"{len(items):,} items: {args.output_file}")


def groups_of(recommend: RecommendationPipeline, column: str | None, names: TitleArguments) -> dict[str, str]:
    """The group of each item, by its id."""
    if column is None:
        return {}
    if names.titles_file:
        return read_groups(names, column)
    saved = recommend.model.item_columns
    known = saved.categories if saved else {}
    if column not in known:
        raise ValueError(
            f"no categories {column!r} are saved with the model, which has {sorted(known)}; give --titles_file"
        )
    categories, codes = known[column]
    first = {item: codes[index, 0] for item, index in recommend.id_of_item.items()}
    return {item: categories[code - 1] for item, code in first.items() if code}


def read_groups(names: TitleArguments, column: str) -> dict[str, str]:
    """The group of each item of --titles_file, by its id."""
    values = column_by_item(names.titles_file, column, names.item_column, "--item_column and --group_column")
    first = {item: (value or [None])[0] if isinstance(value, list) else value for item, value in values.items()}
    return {item: str(group) for item, group in first.items() if group is not None}


if __name__ == "__main__":
    main()
