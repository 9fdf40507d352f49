#!/usr/bin/env python
"""Recommend for a history given on the command line, or for every user of an interaction log."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm
from transformers import HfArgumentParser, pipeline

import hf_rec  # noqa: F401  registers the pipeline
from hf_rec.arguments import FLAG
from hf_rec.data import build_sequences, histories_of, read_table


@dataclass
class RecommendArguments:
    """Whose histories are read, and what is recommended."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, or folder of its export."})
    history: list[str] = field(default_factory=list, metadata={"help": "Item ids, oldest first."})
    file: str | None = field(default=None, metadata={"help": "Instead of --history: an interaction log."})
    user_column: str = field(default="user_id", metadata={"help": "Column of the user in the log."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item in the log and in the titles."})
    time_column: str | None = field(default=None, metadata={"help": "Column that orders a user's items."})
    time: float | None = field(
        default=None,
        metadata={
            "help": "Time of the request, with --file and for a model of time gaps: seconds since 1970 if the log has "
            "dates or timestamps, else a number as in the log; unknown by default."
        },
    )
    titles_file: str | None = field(default=None, metadata={"help": "A table with the items' titles, to show them."})
    title_column: str = field(default="title", metadata={"help": "Column of the title."})
    top_k: int = field(default=10, metadata={"help": "Length of the lists."})
    include_seen: bool | None = field(
        default=None,
        metadata={
            **FLAG,
            "help": "Whether items of the history are recommended, too; by default as the model was trained.",
        },
    )
    candidates: list[str] | None = field(default=None, metadata={"help": "Item ids to choose from."})
    blocked: list[str] | None = field(default=None, metadata={"help": "Item ids that are left out."})

    def __post_init__(self):
        if bool(self.history) == bool(self.file):
            raise ValueError("give one of --history and --file")
        if self.time is not None and not self.file:
            raise ValueError("--time goes with --file: a --history has no times")


def main() -> None:
    """Print one JSON object a line: the user, where there is one, and the recommended items."""
    (args,) = HfArgumentParser(RecommendArguments, description=__doc__).parse_args_into_dataclasses()
    titles = {}
    if args.titles_file:
        table = read_table(args.titles_file, [args.item_column])
        titles = dict(
            zip(map(str, table[args.item_column].to_pylist()), table[args.title_column].to_pylist(), strict=True)
        )
    if args.file:
        sequences = build_sequences(args.file, args.user_column, args.item_column, args.time_column)
        users = list(sequences["user_id"])
    else:
        users, histories = [None], [args.history]

    if (Path(args.model_name_or_path) / "export.json").is_file():
        from hf_rec.export import OnnxRecommendationPipeline

        recommend = OnnxRecommendationPipeline.from_pretrained(args.model_name_or_path)
    else:
        recommend = pipeline("recommendation", model=args.model_name_or_path)
    if args.file:
        timed = recommend.model.config.use_time_gaps or args.time is not None
        histories = histories_of(sequences, timed)
        if timed:
            histories = [history | {"time": args.time} for history in histories]
    lists = recommend(
        (history for history in histories),
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
        print(json.dumps(line, ensure_ascii=False), file=sys.stdout)


if __name__ == "__main__":
    main()
