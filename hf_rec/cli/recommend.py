"""Recommend for a history given on the command line, or for every user of an interaction log."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm
from transformers import HfArgumentParser, pipeline

from ..data.encode import histories_of
from ..data.files import read_table
from ..data.sequences import build_sequences
from ..model.pipeline_bert4rec import RecommendationPipeline
from .arguments import FLAG, feature_columns


@dataclass
class RecommendArguments:
    """The histories, and what is recommended for them."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, or folder of its export."})
    history: list[str] = field(
        default_factory=list,
        metadata={"help": "Item ids, oldest first; or one JSON list of them, for ids that begin with a dash."},
    )
    file: str | None = field(default=None, metadata={"help": "In place of --history: an interaction log."})
    user_column: str = field(default="user_id", metadata={"help": "Column of the user in the log."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item in the log and in the titles."})
    time_column: str | None = field(default=None, metadata={"help": "Column that orders a user's items."})
    time: float | None = field(
        default=None,
        metadata={
            "help": "Time of the request, for a model that reads times: seconds since 1970, or a number in the unit "
            "of the log; default: unknown."
        },
    )
    titles_file: str | None = field(default=None, metadata={"help": "A table with the titles of the items."})
    title_column: str = field(default="title", metadata={"help": "Column of the title."})
    top_k: int = field(default=10, metadata={"help": "Length of the lists."})
    include_seen: bool | None = field(
        default=None,
        metadata={**FLAG, "help": "Also recommend items of the history. Default: the saved setting of the model."},
    )
    candidates: list[str] | None = field(default=None, metadata={"help": "Item ids to choose from."})
    blocked: list[str] | None = field(default=None, metadata={"help": "Item ids that are left out."})

    def __post_init__(self):
        if len(self.history) == 1 and self.history[0].startswith("["):
            self.history = json.loads(self.history[0])
        if bool(self.history) == bool(self.file):
            raise ValueError("give one of --history and --file")
        if self.time is not None and not self.file:
            raise ValueError("--time needs --file: a --history has no times")


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object a line: the user, where there is one, and the recommended items."""
    parser = HfArgumentParser(RecommendArguments, prog="hf-rec recommend", description=__doc__)
    (args,) = parser.parse_args_into_dataclasses(arguments)
    titles = read_titles(args) if args.titles_file else {}
    recommend = open_recommender(args.model_name_or_path)
    users, histories = read_histories(args, recommend) if args.file else ([None], [args.history])
    lists = recommend(
        iter(histories),
        top_k=args.top_k,
        exclude_seen=None if args.include_seen is None else not args.include_seen,
        candidates=args.candidates,
        blocked=args.blocked,
    )
    for user, recommended in zip(users, tqdm(lists, total=len(users), disable=not args.file), strict=True):
        for entry in recommended:
            if entry["item_id"] in titles:
                entry["title"] = titles[entry["item_id"]]
        line = {"recommended": recommended} if user is None else {"user_id": user, "recommended": recommended}
        print(json.dumps(line, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))


def open_recommender(model_name_or_path: str) -> RecommendationPipeline:
    """The pipeline of a saved recommender or of its export."""
    if (Path(model_name_or_path) / "export.json").is_file():
        from ..serving.onnx import OnnxRecommendationPipeline

        return OnnxRecommendationPipeline.from_pretrained(model_name_or_path)
    return pipeline("recommendation", model=model_name_or_path)


def read_histories(args: RecommendArguments, recommend: RecommendationPipeline) -> tuple[list[str], list]:
    """The users of a log and their histories with all that the model reads."""
    config = recommend.model.config
    columns = feature_columns(config)
    sequences = build_sequences(args.file, args.user_column, args.item_column, args.time_column, columns)
    histories = histories_of(sequences, config.features)
    if args.time is not None:
        if not config.features:
            raise ValueError("--time was given, but the model reads no features of time")
        histories = [history | {"request": {"time": args.time}} for history in histories]
    return sequences["user_id"][:], histories


def read_titles(args: RecommendArguments) -> dict[str, str]:
    table = read_table(args.titles_file, [args.item_column])
    if missing := {args.item_column, args.title_column} - {*table.column_names}:
        raise ValueError(
            f"no column {sorted(missing)} in {args.titles_file}, which has {table.column_names}; name the columns with "
            "--item_column and --title_column"
        )
    return dict(zip(map(str, table[args.item_column].to_pylist()), table[args.title_column].to_pylist(), strict=True))


if __name__ == "__main__":
    main()
