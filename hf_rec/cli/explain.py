"""Explain why an item is recommended after a history: a table, and on request a page with pictures."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, PreTrainedModel
from transformers.utils import logging

from ..data.files import write_whole
from ..explanation.counterfactual import Counterfactual, counterfactual
from ..explanation.explain import DEFAULT_METHOD, METHODS, Explanation, explain
from ..explanation.game import HistoryGame
from ..explanation.pictures import attention_picture, flow_picture, plain
from ..explanation.report import report, shown_events
from ..hub.folder import write_json
from ..model.pipeline_bert4rec import RecommendationPipeline
from ..model.rules import label_rules
from ..serving.models import open_recommender
from .lists import check_known, items_of, parse_history, with_request
from .recommend import read_titles

logger = logging.get_logger(__name__)


@dataclass
class ExplainArguments:
    """What is explained, and how."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, or folder of its export."})
    history: list[str] = field(
        metadata={
            "help": "Item ids, oldest first; or one JSON list of them, for ids that begin with a dash; or one "
            'JSON object with "item_ids" and the columns that the model reads.'
        }
    )
    item: str | None = field(default=None, metadata={"help": "Item to explain; default: the first recommended item."})
    against: str | None = field(
        default=None, metadata={"help": "Explain why --item is scored above this item (or below it)."}
    )
    method: str = field(
        default=DEFAULT_METHOD, metadata={"choices": [*METHODS], "help": "How events get their shares."}
    )
    features: bool = field(default=False, metadata={"help": "Also attribute to the features of events and request."})
    request: str | None = field(
        default=None, metadata={"help": 'What is known of the request, as JSON: {"time": 1700000000}.'}
    )
    top_k: int = field(
        default=10, metadata={"help": "Length of the list of which is said without which events the item leaves it."}
    )
    include_seen: bool = field(default=False, metadata={"help": "Also allow --item to be one of the history."})
    seed: int = field(default=0, metadata={"help": "Of the methods that draw samples."})
    output_file: Path | None = field(
        default=None, metadata={"help": "Also write a page with pictures (.html), or the numbers (.json)."}
    )

    def __post_init__(self):
        self.history = parse_history(self.history)
        if self.output_file and self.output_file.suffix not in (".html", ".json"):
            raise ValueError(f"--output_file ends in .html or .json, got {self.output_file}")


@dataclass
class TitleArguments:
    """The titles of the items."""

    titles_file: str | None = field(
        default=None,
        metadata={"help": "A table with the titles of the items, in place of those saved with the model."},
    )
    title_column: str = field(default="title", metadata={"help": "Column of the title."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})

    def titles_of(self, recommend: RecommendationPipeline) -> dict[str, str]:
        """The title of each item, by its id."""
        if self.titles_file:
            titles = read_titles(self, self.item_column)
        else:
            titles = {item: recommend.title(index).get("title") for item, index in recommend.id_of_item.items()}
        return {item: plain(title) for item, title in titles.items() if title is not None}


def main(arguments: list[str] | None = None) -> None:
    """Print the explanation as a sentence and a table."""
    parser = HfArgumentParser((ExplainArguments, TitleArguments), prog="hf-rec explain", description=__doc__)
    args, names = parser.parse_args_into_dataclasses(arguments)
    recommend = open_recommender(args.model_name_or_path)
    titles = names.titles_of(recommend)
    history = args.history
    check_known(recommend, items_of(history), "items of the history")
    if args.request:
        (history,) = with_request([history], json.loads(args.request))
    exclude_seen = False if args.include_seen else None
    if rules := recommend.model.rules:
        logger.warning(
            f"the saved rules {label_rules(rules)} are left out, as the scores are explained; what rules do to a list "
            "is told by `hf-rec recommend --explain_rules`"
        )
    listed = recommend(history, top_k=args.top_k, exclude_seen=exclude_seen, rules=[])
    ranked = [entry["item_id"] for entry in listed]
    if not args.item and not ranked:
        raise ValueError("nothing is recommended after this history; give --item")
    item = args.item or ranked[0]
    options = {"against": args.against, "features": args.features, "exclude_seen": exclude_seen, "seed": args.seed}
    explanation = explain(recommend, history, item, args.method, **options)
    change = None
    if item in ranked and args.against is None:
        change = counterfactual(recommend, history, item, args.top_k, exclude_seen=exclude_seen)
    print(as_text(explanation, change, titles))
    if args.output_file is None:
        return
    if args.output_file.suffix == ".json":
        write_json(
            args.output_file, {"explanation": explanation.to_dict(), "counterfactual": change and change.to_dict()}
        )
    else:
        pictures = draw(recommend, history, item, exclude_seen, titles)
        page = report(explanation, titles, change, pictures)
        write_whole(args.output_file, lambda stream: stream.write(page.encode()))
    print(f"\nwritten: {args.output_file}")


def as_text(explanation: Explanation, change: Counterfactual | None, titles: dict[str, str]) -> str:
    """The explanation as lines of text."""
    lines = [f"{explanation.sentence(titles)}."] + ([f"{change.sentence(titles)}."] if change else [])
    lines += ["", f"{'attribution':>11}  item (latest first; {explanation.method})"]
    shown, others = shown_events(explanation)
    for place in shown:
        event = explanation.events[place]
        lines.append(f"{event.attribution:+11.3f}  {titles.get(event.item_id, event.item_id)}")
        lines += [f"{value:+11.3f}    {name}" for name, value in event.features.items()]
    if len(shown) < len(explanation.events):
        lines.append(f"{others:+11.3f}  {len(explanation.events) - len(shown)} other events")
    lines += [f"{value:+11.3f}  {name} of the request" for name, value in explanation.request.items()]
    lines.append(f"score {explanation.score:.3f}, without a history {explanation.base_score:.3f}")
    return "\n".join(lines)


def draw(
    recommend: RecommendationPipeline, history, item: str, exclude_seen: bool | None, titles: dict[str, str]
) -> dict:
    """The pictures of a report by their headings; none for the export of a model, whose attention is hidden."""
    if not isinstance(recommend.model, PreTrainedModel):
        return {}
    game = HistoryGame(recommend, history, item, exclude_seen=exclude_seen)
    return {
        "The way to the answer": flow_picture(game, titles),
        "Attention of each layer and head": attention_picture(game, titles),
    }


if __name__ == "__main__":
    main()
