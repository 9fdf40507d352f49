"""Recommend for a history given on the command line, or for every user of an interaction log."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from tqdm.auto import tqdm
from transformers import HfArgumentParser

from ..data.columns import as_array
from ..model.item_columns import ItemColumns
from ..model.pipeline_bert4rec import RecommendationPipeline
from ..model.rules import rules_to_json
from ..serving.models import open_recommender
from ..training.checkpoints import fingerprint_data
from .arguments import FLAG, LogArguments, RuleArguments, feature_columns, given_options
from .lists import Requests, check_known, column_by_item, items_of, parse_history, with_request, with_titles
from .parts import PartsFile, fingerprint, fingerprint_items, identify_model, list_schema
from .recommend_spark import write_with_spark

OF_ROWS = [field.name for field in fields(LogArguments) if field.name != "item_column"]  # which tables of items have
PRINTED = 1_024  # users whose lists are computed together when they are printed


@dataclass
class RecommendArguments:
    """The histories, and what is recommended for them."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, or folder of its export."})
    history: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Item ids, oldest first; or one JSON list of them, for ids that begin with a dash; or one JSON "
            'object with "item_ids" and the columns that the model reads.'
        },
    )
    file: list[str] | None = field(
        default=None, metadata={"help": "In place of --history: an interaction log, as for `hf-rec train`."}
    )
    output_file: Path | None = field(
        default=None,
        metadata={
            "help": "With --file: a .parquet or .jsonl file to write in place of printing. An interrupted run goes on "
            "where it stopped."
        },
    )
    part_size: int = field(
        default=5_000,
        metadata={"help": "Users whose lists are written together: what an interrupted run computes again."},
    )
    engine: str | None = field(
        default=None,
        metadata={
            "choices": ["spark"],
            "help": "With --output_file: what computes the lists, of sequences that `hf-rec prepare` wrote, in place "
            "of this process; the file is then a folder of files.",
        },
    )
    spark_master: str | None = field(
        default=None,
        metadata={"help": "Address of Spark, as spark://host:7077 or local[4]; default: that of spark-submit."},
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
        self.history = parse_history(self.history)
        if bool(self.history) == bool(self.file):
            raise ValueError("give one of --history and --file")
        if self.output_file and not self.file:
            raise ValueError("--output_file needs --file; the list of one --history is printed")
        if self.engine and not self.output_file:
            raise ValueError(f"--engine {self.engine} needs --output_file")
        if self.spark_master and self.engine != "spark":
            raise ValueError("--spark_master is an option of --engine spark")
        if self.part_size != RecommendArguments.part_size and not self.output_file:
            raise ValueError("--part_size is of --output_file; leave it out")
        if self.title_column != RecommendArguments.title_column and not self.titles_file:
            raise ValueError("--title_column needs --titles_file")
        if self.part_size < 1:
            raise ValueError(f"--part_size must be at least 1, got {self.part_size}")


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object a line, or write a file: the user, where there is one, and the recommended items."""
    parser = HfArgumentParser(
        (RecommendArguments, LogArguments, RuleArguments), prog="hf-rec recommend", description=__doc__
    )
    args, log, given = parser.parse_args_into_dataclasses(arguments)
    if not args.file and (unread := given_options(log, OF_ROWS)):
        raise ValueError(f"{unread} are options of a log, and --history is none; leave them out")
    titles = read_titles(args, log.item_column) if args.titles_file else {}
    recommend = open_recommender(args.model_name_or_path)
    check_known(recommend, args.candidates or (), "items of --candidates")
    rules = recommend.model.rules if given.rules is None else given.rules
    items = given.load_items(recommend.tokenizer, log.item_column)
    request = json.loads(args.request) if args.request else {}
    options = {
        "top_k": args.top_k,
        "exclude_seen": None if args.include_seen is None else not args.include_seen,
        "candidates": args.candidates,
        "blocked": args.blocked,
        "rules": rules,
        "items": items,
        "explain_rules": args.explain_rules,
    }
    if not args.file:
        check_known(recommend, items_of(args.history), "items of the history")
        history = with_request([args.history], request)[0] if request else args.history
        (recommended,) = recommend([history], **options)
        return print_json({"recommended": with_titles(recommended, titles)})
    requests = Requests(recommend.model.config.features, recommend.rule_set(rules, (), items), request)
    if args.output_file:
        requests.check_time()
    has_titles = bool(titles) or has_saved_titles(recommend, items)
    if args.engine == "spark":
        return write_with_spark(args, log, requests, options, titles, list_schema(has_titles, args.explain_rules))
    users = LogUsers(log, args.file, requests)
    check_known(recommend, as_array(users.sequences["item_ids"]).flatten(), "events of the log")

    def lines_of(start: int, end: int) -> list[dict]:
        lists = recommend(users.histories(start, end), **options)
        named = zip(users.sequences["user_id"][start:end], lists, strict=True)
        return [{"user_id": user, "recommended": with_titles(entries, titles)} for user, entries in named]

    if args.output_file:
        return write_lists(args, recommend, users, options, titles, lines_of, has_titles)
    with tqdm(total=len(users)) as progress:
        for start in range(0, len(users), PRINTED):
            for line in lines_of(start, min(start + PRINTED, len(users))):
                print_json(line)
                progress.update()


def write_lists(
    args: RecommendArguments,
    recommend: RecommendationPipeline,
    users: "LogUsers",
    options: dict,
    titles: dict[str, str],
    lines_of: Callable[[int, int], list[dict]],
    has_titles: bool,
) -> None:
    """Write the lines of all users to --output_file."""
    shown = options | {"rules": rules_to_json(options["rules"]), "items": fingerprint_items(options["items"])}
    identity = {
        "model": identify_model(recommend),
        "options": shown | {"request": users.requests.request, "part_size": args.part_size},
        "titles": fingerprint(json.dumps(titles).encode()),
        "log": fingerprint_data(users.sequences),
    }
    file = PartsFile(args.output_file, list_schema(has_titles, args.explain_rules), identity)
    file.write(len(users), args.part_size, lines_of)


def has_saved_titles(recommend: RecommendationPipeline, items: ItemColumns | None) -> bool:
    """Whether lists get titles from item columns."""
    items = recommend.model.item_columns if items is None else items
    return items is not None and "title" in items.texts


def print_json(line: dict) -> None:
    print(json.dumps(line, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))


class LogUsers:
    """The users of a log, whose histories are made for some at a time."""

    def __init__(self, log: LogArguments, files: list[str], requests: Requests):
        self.requests = requests
        columns = [*feature_columns(requests.features), *requests.keys]
        self.sequences = log.load_sequences(log.open_files(files), columns)

    def __len__(self) -> int:
        return len(self.sequences)

    def histories(self, start: int, end: int) -> list:
        """The histories of some users, with all that the model and the rules read."""
        return self.requests.of(self.sequences.select(range(start, end)))


def read_titles(args: RecommendArguments, item_column: str) -> dict[str, str]:
    return column_by_item(args.titles_file, args.title_column, item_column, "--item_column and --title_column")


if __name__ == "__main__":
    main()
