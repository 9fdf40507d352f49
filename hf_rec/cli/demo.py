"""The whole way on a generated shop log: train, compare with baselines, save, load, recommend."""

import argparse
from pathlib import Path

import pyarrow.parquet
from transformers import pipeline

from ..data.demo_log import shop_log
from ..data.sequences import build_sequences
from ..data.splits import leave_one_out
from ..hub.card import results_table
from ..training.arguments import RecommendationTrainingArguments
from ..training.report import Origin
from ..training.run import train_recommender


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hf-rec demo", description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("demo"), help="folder of the log and of the model")
    parser.add_argument("--num_users", type=int, default=3_000, help="shoppers in the log")
    parser.add_argument("--max_steps", type=int, default=1_000, help="training steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folder = options.output_dir / "shop-recommender"

    purchases, items = shop_log(options.num_users, seed=options.seed)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(purchases, options.output_dir / "purchases.parquet")
    pyarrow.parquet.write_table(items, options.output_dir / "items.parquet")
    splits = leave_one_out(build_sequences(purchases))
    args = RecommendationTrainingArguments(
        str(folder),
        overwrite_output_dir=True,
        max_steps=options.max_steps,
        per_device_train_batch_size=16,
        seed=options.seed,
    )
    results = train_recommender(
        splits,
        args,
        config={"is_decoder": True},
        max_length=20,
        origin=Origin("a generated shop log", command="hf-rec demo"),
    )
    print(f"\nTest metrics, full ranking of {items.num_rows} items:\n\n{results_table(results)}")

    recommend = pipeline("recommendation", model=str(folder))
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    shopper = splits["test"][0]
    print(f"\n{shopper['user_id']} bought:")
    for item in shopper["item_ids"]:
        print(f"  {titles[item]}")
    print(f"and then: {titles[shopper['target_id']]}. Recommended:")
    for recommended in recommend(shopper["item_ids"], top_k=5):
        print(f"  {recommended['score']:6.2f}  {titles[recommended['item_id']]}")
    print(f"\nThe log is in {options.output_dir}, the model in {folder}.")


if __name__ == "__main__":
    main()
