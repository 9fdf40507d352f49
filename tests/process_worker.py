"""Trains a small recommender in the processes that a launcher starts; options come as JSON."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import numpy as np
from runs import ITEMS, steps
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from train_with_trainer import shard
from transformers import Trainer, set_seed

from hf_rec import RankingMetrics, RecommendationCollator
from hf_rec.compat import end_together
from hf_rec.data.demo_log import shop_log
from hf_rec.data.encode import tokenize_splits
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.evaluation.evaluate import evaluate, evaluation_arguments, ranking_metrics
from hf_rec.training import trainer as trainer_module
from hf_rec.training.arguments import complete_arguments
from hf_rec.training.create import create_model
from hf_rec.training.fit import fit
from hf_rec.training.new_items import choose_new_item_offset

NO_NOISE = {"start_probability": 0.0, "forget_probability": 0.0, "window_probability": 0.0}
ENCODER_NO_NOISE = NO_NOISE | {"last_item_probability": 1.0}
FEATURES = {"request_columns": ["time_gap", "hour"], "items": ITEMS, "item_columns": ["brand", "text"]}


class CountingMetrics(RankingMetrics):
    """Counts the histories that this process ranks."""

    ranked = 0

    def preprocess(self, logits, labels, rules=None):
        self.ranked += len(logits)
        return super().preprocess(logits, labels, rules)


def run(
    folder: str,
    is_decoder: bool,
    trainer: str = "hf_rec",
    features: bool = False,
    noise: bool = False,
    users: int = 203,
    config: dict | None = None,
    large: int | None = None,
    sharded: bool = False,
    **changes,
) -> None:
    """Train in float64, and write what each process has: `log.json`, `metrics.json`, `weights.safetensors`, each with
    the number of the process before it.

    Args:
        trainer: "hf_rec" or "stock".
        features: Whether the model reads features of events and the content of items.
        noise: Whether the collator masks and cuts at random, and the model drops out.
        users: Of the log.
        config: More fields of the configuration.
        large: Tokens from which on only the rows of a step are updated.
        sharded: Whether each process holds a part of the weights.
        changes: Arguments of the Trainer.
    """
    set_seed(0)
    if large:
        trainer_module.LARGE_CATALOGUE = large
    splits = leave_one_out(build_sequences(shop_log(users, 0)[0]))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "hidden_dropout_prob": 0.1 if noise else 0.0}
    sizes |= {"is_decoder": is_decoder, "id_dropout_prob": 0.0} | (config or {})
    model, tokenizer = create_model(splits, sizes, 16, **(FEATURES if features else {}))
    model = model.double()
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    args = complete_arguments(steps(Path(folder) / "run", **changes), model.config, tokenized["train"]["length"][:])
    collator = {} if noise else NO_NOISE if is_decoder else ENCODER_NO_NOISE
    if trainer == "hf_rec":
        done = fit(model, tokenizer, tokenized, args, collator=collator, patience=None)
    else:
        metrics = ranking_metrics(tokenized["train"], model.config)
        model = shard(model, args) if sharded else model
        args.train_sampling_strategy = "random"
        done = Trainer(
            model=model,
            args=args,
            train_dataset=tokenized["train"],
            eval_dataset=tokenized["validation"],
            data_collator=RecommendationCollator(model.config, **collator),
            processing_class=tokenizer,
            preprocess_logits_for_metrics=metrics.preprocess,
            compute_metrics=metrics.compute,
        )
        done.train(resume_from_checkpoint=args.resume_from_checkpoint)
    metrics = CountingMetrics(np.ones(model.config.vocab_size))
    ranked = Trainer(
        model=model,
        args=evaluation_arguments(folder, args, 32),
        data_collator=RecommendationCollator(model.config),
        preprocess_logits_for_metrics=metrics.preprocess,
        compute_metrics=metrics.compute,
    )
    ranked.evaluate(tokenized["test"])
    found = evaluate(model, tokenized, args) | {"ranked_here": metrics.ranked, "targets": len(tokenized["test"])}
    if features:
        found["new_item_offset"] = choose_new_item_offset(model, tokenized)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    table = model.items.id_embeddings.weight
    found["rows_here"] = len(table.to_local() if sharded else table)
    place = f"{folder}/{args.process_index}"
    Path(f"{place}-log.json").write_text(json.dumps(done.state.log_history))
    Path(f"{place}-metrics.json").write_text(json.dumps(found))
    weights = {name: tensor.full_tensor() if sharded else tensor for name, tensor in model.named_parameters()}
    save_file(weights, f"{place}-weights.safetensors")
    end_together()


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
