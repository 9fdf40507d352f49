#!/usr/bin/env python
"""Compare the training speed and peak memory of `hf-rec train` with a plain `BertForMaskedLM` and other libraries.

Each run is a process of its own. It cuts histories to `--max_length`, warms up for some steps and times the others.
The models take turns, and the script prints medians and their ratios. This package trains as its command does, with
the batches, the order and the optimizer of the recipe, causal and masked. The plain model is what a user of
Transformers would write by hand for the stock Trainer: the same sizes and dropout, padded batches, scores at every
position. Other libraries are measured if they are installed: see `requirements-peers.txt` and `peers.py`.
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

from hf_rec import ItemTokenizer
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.training import RecommendationTrainingArguments, create_model, make_trainer
from hf_rec.training.create import all_items

MASK_PROBABILITY = 0.2
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
OBJECTIVES = {"hf-rec train": True, "hf-rec train --objective cloze": False}
PLAIN = "BertForMaskedLM + Trainer"


class Clock(TrainerCallback):
    """The seconds from the end of the last step of the warm-up to the end of training."""

    def __init__(self, warmup_steps: int):
        self.warmup_steps = warmup_steps
        self.ends = []

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.ends[0]

    def on_step_end(self, args, state, *_args, **_kwargs):
        if state.global_step in (self.warmup_steps, state.max_steps):
            if args.device.type == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())


class PaddedCollator(DataCollatorForLanguageModeling):
    """The stock masks on the most recent items, padded to the longest input of the model."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, mlm_probability=MASK_PROBABILITY, pad_to_multiple_of=tokenizer.model_max_length)

    def __call__(self, features):
        length = self.tokenizer.model_max_length
        return super().__call__([{"input_ids": feature["input_ids"][-length:]} for feature in features])


def plain_trainer(splits, options: argparse.Namespace, args: RecommendationTrainingArguments) -> Trainer:
    """What a user of Transformers would write by hand."""
    tokenizer = ItemTokenizer.from_items(all_items(splits), max_length=options.max_length)
    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": options.max_length}
    model = BertForMaskedLM(BertConfig(**sizes, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2))
    args.train_sampling_strategy, args.gradient_accumulation_steps = "random", 1
    args.per_device_train_batch_size, args.learning_rate, args.weight_decay = options.batch_size, 2e-3, 0.0
    train = tokenize_splits(splits, tokenizer)["train"]
    return Trainer(model, args, train_dataset=train, data_collator=PaddedCollator(tokenizer))


def recipe_trainer(kind: str, splits, options: argparse.Namespace, args: RecommendationTrainingArguments) -> Trainer:
    """The Trainer of `hf-rec train`."""
    is_decoder = OBJECTIVES[kind]
    model, tokenizer = create_model(splits, SIZES | {"is_decoder": is_decoder}, options.max_length)
    tokenized = tokenize_splits(splits, tokenizer)
    collator = {"mask_probability": MASK_PROBABILITY}
    return make_trainer(model, tokenizer, tokenized, args, collator=None if is_decoder else collator)


def run(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Train for some steps in this process."""
    splits = leave_one_out(build_sequences(options.train_file))
    if kind in PEERS:
        speed = PEERS[kind](
            splits["train"]["item_ids"][:],
            max_length=options.max_length,
            batch_size=options.batch_size,
            steps=options.plain_steps,
            warmup_steps=options.warmup_steps,
            seed=options.seed,
        )
        return speed | {"peak_memory_gb": peak_memory_gb(torch.device("cpu"))}
    clock, steps = Clock(options.warmup_steps), options.hf_rec_steps if kind in OBJECTIVES else options.plain_steps
    with tempfile.TemporaryDirectory() as folder:
        args = RecommendationTrainingArguments(
            folder,
            max_steps=steps + options.warmup_steps,
            dataloader_drop_last=True,  # so that every step has a whole batch
            eval_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=options.device == "cpu",
            bf16=options.bf16,
            seed=options.seed,
        )
        trainer = (
            recipe_trainer(kind, splits, options, args) if kind in OBJECTIVES else plain_trainer(splits, options, args)
        )
        trainer.add_callback(clock)
        trainer.train()
    histories = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
    return {"sequences_per_second": steps * histories / clock.seconds, "peak_memory_gb": peak_memory_gb(args.device)}


def peak_memory_gb(device: torch.device) -> float:
    """Of the process, or of its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--max_length", type=int, default=200, help="positions of the input")
    parser.add_argument("--batch_size", type=int, default=128, help="histories in a step of the other models")
    parser.add_argument("--hf_rec_steps", type=int, default=200, help="timed steps of this package's model")
    parser.add_argument("--plain_steps", type=int, default=10, help="timed steps of the other models")
    parser.add_argument("--warmup_steps", type=int, default=5, help="steps before the timed ones")
    parser.add_argument("--runs", type=int, default=3, help="runs of each model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="without other libraries on cuda")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[PLAIN, *OBJECTIVES, *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run(options.only, options)))
        return

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{device_name(options.device)}, "
        + ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "hf_rec"))
        + f"; {options.train_file.parent.name}, length {options.max_length}, batch {options.batch_size}, "
        f"{'bfloat16' if options.bf16 else 'float32'}, seed {options.seed}, medians of {options.runs} runs\n"
    )
    runs = {kind: [] for kind in (PLAIN, *OBJECTIVES)}
    for peer in PEERS if options.device == "cpu" else ():
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
    print(f"| | sequences/s | times {PLAIN} | peak memory, GB |\n|---|---:|---:|---:|")
    for kind in runs:
        print(f"| `{kind}` | {speed[kind]:,.0f} | {speed[kind] / speed[PLAIN]:.1f} | {memory[kind]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
