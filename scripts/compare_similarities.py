#!/usr/bin/env python
"""Which similarity of items predicts what comes next: vectors of the model, content, co-occurrence.

Each ranks the catalogue by how similar an item is to the last item of a history alone, for the validation targets of
leave-one-out, without the items of the history. Co-occurrence is counted in the training split. Popularity, the items
that followed the last one, and the model with the last item or the whole history stand beside them. The content of a
model that reads none is that of --items_file, compared without training.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import pipeline

from hf_rec.cli.arguments import feature_columns
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.data.files import read_table
from hf_rec.evaluation import ranking_metrics
from hf_rec.evaluation.baselines import content_nearest, evaluate_scorer, last_item_markov, popularity
from hf_rec.model.inputs import build_request
from hf_rec.model.pipeline_bert4rec import next_scores
from hf_rec.serving.vectors import Similarity, co_occurrence, content_similarity, model_similarity
from hf_rec.training import create_model

Scorer = Callable[[Sequence[Sequence[int]]], torch.Tensor]


def by_last_item(similarity: Similarity, vocab_size: int) -> Scorer:
    """Scores items by their similarity to the last item; those that cannot be compared come last."""

    def score(histories: Sequence[Sequence[int]]) -> torch.Tensor:
        scores = torch.full((len(histories), vocab_size), -1e9)
        rows = [row for row, history in enumerate(histories) if history]
        found = similarity(torch.tensor([histories[row][-1] for row in rows]))
        scores[rows] = found.nan_to_num(neginf=-1e9)
        return scores

    return score


def by_model(model, events: int | None) -> Scorer:
    """Scores of the model for the last events, or for the whole history if None."""

    @torch.no_grad()
    def score(histories: Sequence[Sequence[int]]) -> torch.Tensor:
        read = [history[-events:] if events else history for history in histories]
        return next_scores(model, **build_request(model.config, read, exclude_seen=False))

    return score


def content_of_file(items_file: Path, columns: list[str], splits, tokenizer):
    """The content of the items of a table, for the tokens of a model."""
    table = read_table(items_file, ["item_id"])
    model, own = create_model(splits, {"is_decoder": True}, items=table, item_columns=columns)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError("the model has other items than the training split of the log")
    return model.items.content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="a saved recommender without event features")
    parser.add_argument("--train_file", type=Path, required=True, help="its interaction log")
    parser.add_argument("--items_file", type=Path, help="table of items, for the content of a model that reads none")
    parser.add_argument("--item_columns", nargs="+", default=["genres"], help="its columns that are content")
    options = parser.parse_args()
    recommend = pipeline("recommendation", model=options.model_name_or_path)
    model, vocab_size = recommend.model, recommend.model.config.vocab_size
    if columns := feature_columns(model.config.features):
        raise ValueError(f"the model reads {columns} of events, which a similarity of items does not know")
    splits = leave_one_out(build_sequences(options.train_file))
    tokenized = tokenize_splits(splits, recommend.tokenizer)
    content = model.scoring_items.content
    scorers = {"popularity": popularity(tokenized["train"], vocab_size)}
    if content is not None:
        scorers["content, as the model reads it"] = by_last_item(content_similarity(recommend), vocab_size)
    elif options.items_file:
        content = content_of_file(options.items_file, options.item_columns, splits, recommend.tokenizer)
    if content is not None:
        nearest = content_nearest(content)(tokenized["train"], vocab_size)
        scorers["content, untrained"] = lambda histories: nearest([history[-1:] for history in histories])
    together = co_occurrence(recommend, splits["train"]["item_ids"])
    scorers |= {
        "co-occurrence": by_last_item(together, vocab_size),
        "vectors of the model": by_last_item(model_similarity(recommend), vocab_size),
        "last-item Markov": last_item_markov(tokenized["train"], vocab_size),
        "the model, last item": by_model(model, 1),
        "the model, whole history": by_model(model, None),
    }
    metrics = ranking_metrics(tokenized["train"], model.config)
    print(f"{options.train_file.parent.name}, {len(tokenized['validation']):,} validation targets\n")
    print("| items ranked by | HR@10 | NDCG@10 |\n|---|---:|---:|")
    for name, score in scorers.items():
        found = evaluate_scorer(score, tokenized["validation"], model.config, metrics)
        print(f"| {name} | {found['hr@10']:.4f} | {found['ndcg@10']:.4f} |", flush=True)


if __name__ == "__main__":
    main()
