#!/usr/bin/env python
"""Compare quality with a plain `BertForMaskedLM` after equal epochs, for several seeds: speed must not cost quality.

Both models have the sizes, dropout, batch, rate and schedule of `benchmark_training.py` and use the stock Trainer. The
test metrics rank the whole catalogue without the items of the history.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from benchmark_training import MASK_PROBABILITY, PaddedCollator, new_model
from tqdm.auto import tqdm
from transformers import Trainer, set_seed

from hf_rec import Bert4RecConfig, ItemTokenizer, RecommendationCollator
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.evaluation import evaluate_scorer, ranking_metrics
from hf_rec.evaluation.baselines import Scorer, popularity
from hf_rec.model.inputs import pad_rows
from hf_rec.training import RecommendationTrainingArguments


def train(kind: str, tokenized, tokenizer, seed: int, options: argparse.Namespace):
    """A model, trained for the given epochs."""
    set_seed(seed)
    model = new_model(kind, tokenizer)
    plain = kind == "plain"
    with tempfile.TemporaryDirectory() as folder:
        args = RecommendationTrainingArguments(
            folder,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=1,
            num_train_epochs=options.epochs,
            learning_rate=options.learning_rate,
            weight_decay=0.0,
            train_sampling_strategy="random" if plain else "group_by_length",
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            seed=seed,
        )
        collator = PaddedCollator(tokenizer) if plain else RecommendationCollator(model.config, MASK_PROBABILITY)
        Trainer(model, args, train_dataset=tokenized["train"], data_collator=collator).train()
    return model.eval()


def scorer(model, tokenizer: ItemTokenizer) -> Scorer:
    """Scores at a mask after each history, in inputs as long as in training."""
    length = tokenizer.model_max_length

    @torch.no_grad()
    def score(histories) -> torch.Tensor:
        rows = [[*history[-(length - 1) :], tokenizer.mask_token_id] for history in histories]
        input_ids, attention_mask = pad_rows(rows, tokenizer.pad_token_id, side="left")
        missing = length - input_ids.shape[1], 0
        return model(
            input_ids=torch.nn.functional.pad(input_ids, missing, value=tokenizer.pad_token_id),
            attention_mask=torch.nn.functional.pad(attention_mask, missing),
        ).logits[:, -1]

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--max_length", type=int, default=200, help="positions of the input")
    parser.add_argument("--batch_size", type=int, default=128, help="histories in a step")
    parser.add_argument("--epochs", type=float, default=10, help="epochs of both models")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="peak learning rate of both models")
    parser.add_argument("--models", nargs="+", choices=["plain", "hf_rec"], default=["plain", "hf_rec"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    sequences = build_sequences(options.train_file)
    tokenizer = ItemTokenizer.from_items(sequences["item_ids"], max_length=options.max_length)
    tokenized = tokenize_splits(leave_one_out(sequences), tokenizer)
    config = Bert4RecConfig(vocab_size=len(tokenizer), max_position_embeddings=options.max_length)
    metrics = ranking_metrics(tokenized["train"], config)

    def test(score: Scorer, name: str) -> dict[str, float]:
        return evaluate_scorer(score, tokenized["test"], config, metrics, batch_size=64, description=name)

    rows = {"popularity": [test(popularity(tokenized["train"], len(tokenizer)), "popularity")]}
    runs = [(kind, seed) for seed in options.seeds for kind in options.models]
    for kind, seed in tqdm(runs):
        model = train(kind, tokenized, tokenizer, seed, options)
        rows.setdefault(kind, []).append(test(scorer(model, tokenizer), kind))
    print(
        f"{options.train_file.parent.name}, length {options.max_length}, batch {options.batch_size}, {options.epochs} "
        f"epochs, rate {options.learning_rate}, seeds {options.seeds}\n\n| | NDCG@10 | mean | HR@10 | mean |\n"
        "|---|---|---:|---|---:|"
    )
    for kind, results in rows.items():
        cells = [kind]
        for metric in ("ndcg@10", "hr@10"):
            values = [result[metric] for result in results]
            cells += [", ".join(f"{value:.4f}" for value in values), f"{statistics.mean(values):.4f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
