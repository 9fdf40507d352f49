#!/usr/bin/env python
"""The whole way on a shop log made up here: train, compare with baselines, save, load, recommend."""

import argparse
import shutil
from pathlib import Path

from transformers import pipeline

from hf_rec.data import build_sequences, leave_one_out
from hf_rec.hub import results_table
from hf_rec.shop import shop_log
from hf_rec.training import RecommendationTrainingArguments, train_recommender


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"), help="replaced if it exists")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shutil.rmtree(options.output_dir, ignore_errors=True)

    purchases, items = shop_log(seed=options.seed)
    splits = leave_one_out(build_sequences(purchases))
    args = RecommendationTrainingArguments(
        output_dir=str(options.output_dir), max_steps=1_000, per_device_train_batch_size=16, seed=options.seed
    )
    results = train_recommender(
        splits,
        args,
        config={"is_decoder": True},
        max_length=20,
        dataset="a generated shop log",
        command="python scripts/demo.py",
    )
    print(f"\nTest metrics, full ranking over {items.num_rows} items:\n\n{results_table(results)}")

    recommend = pipeline("recommendation", model=str(options.output_dir))
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    shopper = splits["test"][0]
    print(f"\n{shopper['user_id']} bought:")
    for item in shopper["item_ids"]:
        print(f"  {titles[item]}")
    print(f"and then: {titles[shopper['target_id']]}. Recommended:")
    for recommended in recommend(shopper["item_ids"], top_k=5):
        print(f"  {recommended['score']:6.2f}  {titles[recommended['item_id']]}")


if __name__ == "__main__":
    main()
