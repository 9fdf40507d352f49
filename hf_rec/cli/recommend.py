"""Recommend for a history given on the command line, or for every user of an interaction log."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm
from transformers import HfArgumentParser, pipeline

from ..data.columns import as_array, is_list
from ..data.encode import histories_of, raw_values
from ..data.files import read_table
from ..model.features import Feature
from ..model.pipeline_bert4rec import RecommendationPipeline
from ..model.rule_set import RuleSet
from .arguments import FLAG, LogArguments, RuleArguments, feature_columns


@dataclass
class RecommendArguments:
    """The histories, and what is recommended for them."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, or folder of its export."})
    history: list[str] = field(
        default_factory=list,
        metadata={"help": "Item ids, oldest first; or one JSON list of them, for ids that begin with a dash."},
    )
    file: list[str] | None = field(
        default=None, metadata={"help": "In place of --history: an interaction log, as for `hf-rec train`."}
    )
    request: str | None = field(
        default=None,
        metadata={
            "help": 'What is known of the request, as JSON: {"time": 1700000000, "country": "FR"}; default: unknown.'
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

    explain_rules: bool = field(
        default=False, metadata={"help": "Also print what the rules did to each recommended item."}
    )

    def __post_init__(self):
        if len(self.history) == 1 and self.history[0].startswith("["):
            self.history = json.loads(self.history[0])
        if bool(self.history) == bool(self.file):
            raise ValueError("give one of --history and --file")


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object a line: the user, where there is one, and the recommended items."""
    parser = HfArgumentParser(
        (RecommendArguments, LogArguments, RuleArguments), prog="hf-rec recommend", description=__doc__
    )
    args, log, given = parser.parse_args_into_dataclasses(arguments)
    titles = read_titles(args, log.item_column) if args.titles_file else {}
    recommend = open_recommender(args.model_name_or_path)
    features, rules = recommend.model.config.features, recommend.model.rules if given.rules is None else given.rules
    items = given.load_items(recommend.tokenizer, log.item_column)
    compiled = recommend.rule_set(rules, (), items)
    request = json.loads(args.request) if args.request else {}
    users, histories = [None], [args.history]
    if args.file:
        users, histories = read_histories(log, args.file, features, compiled, request)
    if request:
        histories = with_request(histories, request)
    lists = recommend(
        iter(histories),
        top_k=args.top_k,
        exclude_seen=None if args.include_seen is None else not args.include_seen,
        candidates=args.candidates,
        blocked=args.blocked,
        rules=rules,
        items=items,
        explain_rules=args.explain_rules,
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
        from ..serving.onnx import open_export

        return open_export(model_name_or_path)
    return pipeline("recommendation", model=model_name_or_path)


def read_histories(
    log: LogArguments, files: list[str], features: list[Feature], rules: RuleSet | None, request: dict
) -> tuple[list[str], list]:
    """The users of a log and their histories with all that the model and the rules read.

    What rules read of a request is a column of --users_file, unless the request has it.
    """
    keys = sorted(rules.request_keys - {*request}) if rules else []
    sequences = log.load_sequences(log.open_files(files), [*feature_columns(features), *keys])
    histories = histories_of(sequences, features)
    if rules and (keys or rules.needs_timestamps):
        histories = [row if isinstance(row, dict) else {"item_ids": row} for row in histories]
        for name in [*keys, *(["timestamps"] if rules.needs_timestamps else [])]:
            column = as_array(sequences[name])
            if name in keys and is_list(column.type):
                raise ValueError(f"the rules read {name!r} of a request, the log has it of each event; give --request")
            for row, value in zip(histories, raw_values(column, name).to_pylist(), strict=True):
                row[name] = value
    return sequences["user_id"][:], histories


def with_request(histories: list, request: dict) -> list[dict]:
    """The histories as dictionaries, each with what is known of the request."""
    rows = [history if isinstance(history, dict) else {"item_ids": history} for history in histories]
    return [row | {"request": request} for row in rows]


def read_titles(args: RecommendArguments, item_column: str) -> dict[str, str]:
    table = read_table(args.titles_file, [item_column])
    if missing := {item_column, args.title_column} - {*table.column_names}:
        raise ValueError(
            f"no column {sorted(missing)} in {args.titles_file}, which has {table.column_names}; name the columns "
            "with --item_column and --title_column"
        )
    return dict(zip(map(str, table[item_column].to_pylist()), table[args.title_column].to_pylist(), strict=True))


if __name__ == "__main__":
    main()
