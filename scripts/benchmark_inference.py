#!/usr/bin/env python
"""Speed of recommendation and evaluation with a saved recommender, in PyTorch and ONNX, in full and reduced precision.

Every path recommends to all users of the test split through the interface of the pipeline, from raw ids to raw ids.
The NDCG@10 of these lists shows what a path costs in quality. The time of one user is that of a call with one history.
The baseline is an untrained `BertForMaskedLM` of the same sizes that is read at its last position.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, pipeline

from hf_rec import Bert4RecConfig
from hf_rec.cli.arguments import feature_columns
from hf_rec.data import build_sequences, histories_of, leave_one_out, tokenize_splits
from hf_rec.evaluation import evaluate, metrics
from hf_rec.hub import save_recommender
from hf_rec.model.inputs import pad_rows
from hf_rec.serving import OnnxRecommendationPipeline, export_recommender
from hf_rec.training import create_model, load_model

FIRST = """
import time
start = time.perf_counter()
import hf_rec
from transformers import pipeline
imported = time.perf_counter()
pipeline("recommendation", model={folder!r})({history!r})
print(imported - start, time.perf_counter() - start)
"""


class PlainBert:
    """Recommends by a `BertForMaskedLM` with the sizes of a recommender, as a few lines of one's own would."""

    batch_size = 64  # that of the pipeline

    def __init__(self, config: Bert4RecConfig, id_of_item: dict[str, int]):
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes = {name: getattr(config, name) for name in (*names, "max_position_embeddings")}
        self.model = BertForMaskedLM(BertConfig(**sizes, pad_token_id=config.pad_token_id)).eval()
        self.id_of_item, self.item_of_id = id_of_item, {index: item for item, index in id_of_item.items()}

    @torch.inference_mode()
    def __call__(self, histories, top_k: int):
        if isinstance(histories[0], str):
            return self([histories], top_k)[0]
        lists = []
        for start in range(0, len(histories), self.batch_size):
            ids, mask = pad_rows([self.read(history) for history in histories[start:][: self.batch_size]], 0, "left")
            states = self.model.bert(ids, attention_mask=mask).last_hidden_state[:, -1]
            scores, best = self.model.cls(states).topk(top_k)
            lists += [
                [{"item_id": self.item_of_id.get(index), "score": score} for index, score in zip(*row, strict=True)]
                for row in zip(best.tolist(), scores.tolist(), strict=True)
            ]
        return lists

    def read(self, history: list[str]) -> list[int]:
        known = [self.id_of_item[item] for item in history if item in self.id_of_item]
        return known[-self.model.config.max_position_embeddings :]


def seconds_of(function, *args, **kwargs) -> float:
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def ndcg(lists: list[list[dict]], targets: list[str]) -> float:
    """NDCG@10 of lists of ten items."""
    items = ([entry["item_id"] for entry in ranked] for ranked in lists)
    ranks = [
        1 + ranked.index(target) if target in ranked else 11 for ranked, target in zip(items, targets, strict=True)
    ]
    return metrics.ndcg(np.array(ranks), 10)


def measure(name: str, recommend, histories, targets, options: argparse.Namespace) -> None:
    """Print a row of the table."""
    lists = recommend(histories, top_k=10)
    speed = statistics.median(len(histories) / seconds_of(recommend, histories, top_k=10) for _ in range(options.runs))
    single = sorted(1000 * seconds_of(recommend, history, top_k=10) for history in histories[: options.calls])
    p50, p95 = single[len(single) // 2], single[len(single) * 95 // 100]
    print(f"| {name} | {speed:,.0f} | {p50:.2f} | {p95:.2f} | {ndcg(lists, targets):.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--model_name_or_path", help="a saved recommender; default: a random one")
    parser.add_argument("--max_length", type=int, default=200, help="positions of a random model")
    parser.add_argument("--calls", type=int, default=1000, help="calls with one history")
    parser.add_argument("--runs", type=int, default=3, help="runs of each path; the median counts")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.model_name_or_path:
        columns = feature_columns(Bert4RecConfig.from_pretrained(options.model_name_or_path).features)
        splits = leave_one_out(build_sequences(options.train_file, event_columns=columns))
        model, tokenizer = load_model(options.model_name_or_path)
    else:
        splits = leave_one_out(build_sequences(options.train_file))
        model, tokenizer = create_model(splits, max_length=options.max_length)
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    histories = histories_of(splits["test"], model.config.features)
    targets = splits["test"]["target_id"][:]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        + ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "onnxruntime", "hf_rec"))
        + f"; {options.train_file.parent.name}, {len(histories):,} users, {len(tokenizer):,} tokens, medians of "
        f"{options.runs} runs\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        saved, exported, quantized = (Path(folder) / name for name in ("saved", "exported", "quantized"))
        save_recommender(saved, model, tokenizer)
        export_recommender(saved, exported)
        export_recommender(saved, quantized, quantize=True)

        print("| path | users/s, top 10 | one user, p50 ms | p95 ms | NDCG@10 |\n|---|---:|---:|---:|---:|")
        for dtype in ("float32", "bfloat16"):
            recommend = pipeline("recommendation", model=saved, dtype=dtype)
            if dtype == "float32":
                plain = PlainBert(model.config, recommend.id_of_item)
                measure("BertForMaskedLM, untrained", plain, histories, targets, options)
            measure(f"PyTorch, {dtype}", recommend, histories, targets, options)
        threads = {"intra_op_num_threads": torch.get_num_threads()}
        for name, path in (("ONNX", exported), ("ONNX, 8-bit", quantized)):
            measure(name, OnnxRecommendationPipeline.from_pretrained(path, **threads), histories, targets, options)

        evaluations = [seconds_of(evaluate, model, tokenized) for _ in range(options.runs)]
        code = FIRST.format(folder=str(saved), history=histories[0])
        starts = [
            [float(part) for part in subprocess.check_output([sys.executable, "-c", code], text=True).split()]
            for _ in range(options.runs)
        ]
        imported, first = (statistics.median(times) for times in zip(*starts, strict=True))
    print(f"\nEvaluation, all metrics: {statistics.median(evaluations):.2f} s")
    print(f"New process: import after {imported:.1f} s, first recommendation after {first:.1f} s")


if __name__ == "__main__":
    main()
