#!/usr/bin/env python
"""Compare training speed and peak memory with a plain `BertForMaskedLM` in the stock Trainer and with other libraries.

Each run is a process of its own. It cuts histories to `--max_length`, warms up for some steps and times the others.
The models take turns, and the script prints medians and their ratios. The plain model is what a user of Transformers
would write by hand: the same sizes and dropout, padded batches, scores at every position. Other libraries are measured
if they are installed: see `requirements-peers.txt` and `peers.py`.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from peers import PEERS, missing
from tqdm.auto import tqdm
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, Trainer, TrainerCallback

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM, ItemTokenizer, RecommendationCollator
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.training import RecommendationTrainingArguments

MASK_PROBABILITY = 0.2
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}


class Clock(TrainerCallback):
    """Records the end of each step."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_args, **_kwargs):
        self.ends.append(time.perf_counter())


class PaddedCollator(DataCollatorForLanguageModeling):
    """The stock masks on the most recent items, padded to the longest input of the model."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, mlm_probability=MASK_PROBABILITY, pad_to_multiple_of=tokenizer.model_max_length)

    def __call__(self, features):
        length = self.tokenizer.model_max_length
        return super().__call__([{"input_ids": feature["input_ids"][-length:]} for feature in features])


def new_model(kind: str, tokenizer: ItemTokenizer):
    """The plain model or the model of this package, with the same sizes."""
    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    if kind == "hf_rec":
        return Bert4RecForMaskedLM(Bert4RecConfig(**sizes, hidden_dropout_prob=0.2))
    return BertForMaskedLM(BertConfig(**sizes, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2))


def run(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Train for some steps in this process."""
    sequences = build_sequences(options.train_file)
    if kind in PEERS:
        histories = leave_one_out(sequences)["train"]["item_ids"][:]
        speed = PEERS[kind](
            histories,
            max_length=options.max_length,
            batch_size=options.batch_size,
            steps=options.plain_steps,
            warmup_steps=options.warmup_steps,
            seed=options.seed,
        )
        return speed | {"peak_memory_gb": peak_memory_gb()}
    tokenizer = ItemTokenizer.from_items(sequences["item_ids"], max_length=options.max_length)
    train = tokenize_splits(leave_one_out(sequences), tokenizer)["train"]
    model = new_model(kind, tokenizer)
    if kind == "hf_rec":
        collator, strategy = RecommendationCollator(model.config, MASK_PROBABILITY), "group_by_length"
    else:
        collator, strategy = PaddedCollator(tokenizer), "random"
    clock, steps = Clock(), options.hf_rec_steps if kind == "hf_rec" else options.plain_steps
    with tempfile.TemporaryDirectory() as folder:
        args = RecommendationTrainingArguments(
            folder,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=1,
            max_steps=steps + options.warmup_steps,
            learning_rate=2e-3,
            weight_decay=0.0,
            train_sampling_strategy=strategy,
            dataloader_drop_last=True,  # so that every step has a whole batch
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            disable_tqdm=True,
            seed=options.seed,
        )
        Trainer(model, args, train_dataset=train, data_collator=collator, callbacks=[clock]).train()
    seconds = clock.ends[-1] - clock.ends[options.warmup_steps - 1]
    return {
        "sequences_per_second": steps * options.batch_size / seconds,
        "peak_memory_gb": peak_memory_gb(),
    }


def peak_memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--max_length", type=int, default=200, help="positions of the input")
    parser.add_argument("--batch_size", type=int, default=128, help="histories in a step")
    parser.add_argument("--hf_rec_steps", type=int, default=60, help="timed steps of this package's model")
    parser.add_argument("--plain_steps", type=int, default=10, help="timed steps of the other models")
    parser.add_argument("--warmup_steps", type=int, default=5, help="steps before the timed ones")
    parser.add_argument("--runs", type=int, default=3, help="runs of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["hf_rec", "plain", *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run(options.only, options)))
        return

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        + ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "hf_rec"))
        + f"; {options.train_file.parent.name}, length {options.max_length}, batch {options.batch_size}, float32, "
        f"seed {options.seed}, medians of {options.runs} runs\n"
    )
    runs = {"plain": [], "hf_rec": []}
    for peer in PEERS:
        if reason := missing(peer):
            print(reason, file=sys.stderr)
        else:
            runs[peer] = []
    for _ in tqdm(range(options.runs)):
        for kind, results in runs.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--only", kind]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results.append(json.loads(output.splitlines()[-1]))
    speed, memory = (
        {kind: statistics.median(result[measure] for result in results) for kind, results in runs.items()}
        for measure in ("sequences_per_second", "peak_memory_gb")
    )
    print("| | sequences/s | hf_rec is faster by | peak memory, GB |\n|---|---:|---:|---:|")
    for kind in runs:
        name = {"plain": "BertForMaskedLM + Trainer", "hf_rec": "hf_rec + Trainer"}.get(kind, kind)
        print(f"| {name} | {speed[kind]:.0f} | {speed['hf_rec'] / speed[kind]:.1f} | {memory[kind]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
