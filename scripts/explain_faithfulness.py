"""Measure how faithful each method of explanation is, and what it costs.

For a sample of test users, each method explains the item that is recommended first. The table gives the area under the
deletion curve (lower is better) and under the insertion curve (higher is better), with 95 % confidence intervals over
the users, and the time of an explanation. `reproduce.py` includes the tables that are kept as
`model_cards/results/*.md`.
"""

import json
import platform
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser, pipeline

from hf_rec.cli.arguments import DataArguments, feature_columns
from hf_rec.cli.train import command_line
from hf_rec.data.encode import histories_of
from hf_rec.explanation import METHODS, HistoryGame
from hf_rec.explanation.faithfulness import SHARES, curves, normalised_area


def random_order(game: HistoryGame, seed: int) -> torch.Tensor:
    """(players,) attributions of chance."""
    return torch.rand(len(game), generator=torch.Generator().manual_seed(seed))


MEASURED = {"random order": random_order, **METHODS}


@dataclass
class FaithfulnessArguments:
    """What is measured."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    users: int = field(default=60, metadata={"help": "Test users that are drawn."})
    seed: int = field(default=0, metadata={"help": "Seed of the draw and of the methods that sample."})
    methods: list[str] = field(
        default_factory=lambda: [*MEASURED], metadata={"help": "Methods that are measured; default: all."}
    )
    output_file: Path | None = field(default=None, metadata={"help": "Also write the results and curves as JSON."})


def measure(recommend, histories: list, method, seed: int) -> dict[str, np.ndarray]:
    """The curves (users, points), the gaps (users,) and the seconds (users,) of a method."""
    found = {"deletion": [], "insertion": [], "gaps": [], "seconds": []}
    for number, history in enumerate(tqdm(histories, leave=False)):
        item = recommend(history, top_k=1)[0]["item_id"]
        game = HistoryGame(recommend, history, item)
        start = time.perf_counter()
        values = method(game, seed + number)
        found["seconds"].append(time.perf_counter() - start)
        deletion, insertion = curves(game, values)
        for name, value in (("deletion", deletion), ("insertion", insertion), ("gaps", game.score - game.base_score)):
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    args, data = HfArgumentParser(
        (FaithfulnessArguments, DataArguments), description=__doc__
    ).parse_args_into_dataclasses()
    data.refuse("hold_out_items", "include_seen")
    recommend = pipeline("recommendation", model=args.model_name_or_path)
    features = recommend.model.config.features
    histories = histories_of(data.load_splits(feature_columns(features))["test"], features)
    drawn = np.random.default_rng(args.seed).permutation(len(histories))
    histories = [history for history in (histories[index] for index in drawn) if known_items(recommend, history)]
    histories = histories[: args.users]
    print(
        f"\n## {data.title}: faithfulness of explanations\n\nAreas under the curves for {len(histories)} test users, "
        f"seed {args.seed}, with 95 % intervals over the users, and the median time of an explanation; "
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {version('torch')}.\n\n"
        f"`{command_line('python scripts/explain_faithfulness.py', sys.argv[1:])}`\n\n"
        "| method | deletion area | insertion area | ms per explanation |\n|---|---:|---:|---:|"
    )
    results = {}
    for name in args.methods:
        found = measure(recommend, histories, MEASURED[name], args.seed)
        areas = {curve: normalised_area(found[curve], found["gaps"]) for curve in ("deletion", "insertion")}
        cost = 1000 * float(np.median(found["seconds"]))
        cells = [f"{area:.3f} [{low:.3f}, {high:.3f}]" for area, low, high in areas.values()]
        print(f"| {name} | {' | '.join(cells)} | {cost:,.0f} |", flush=True)
        means = {curve: (found[curve].sum(0) / found["gaps"].sum()).tolist() for curve in areas}
        results[name] = {"areas": areas, "ms": cost, "curves": means}
    if args.output_file:
        args.output_file.write_text(json.dumps({"shares": SHARES.tolist(), "methods": results}, indent=2) + "\n")


def known_items(recommend, history) -> bool:
    items = history["item_ids"] if isinstance(history, dict) else history
    return any(item in recommend.id_of_item for item in items)


if __name__ == "__main__":
    main()
