#!/usr/bin/env python
"""Train a recommender with the stock Trainer of Transformers, in one process or in several.

`torchrun` and `accelerate launch` start it as any script that uses the Trainer. With `--sharded`, each process holds
only a part of the weights, of their gradients and of the state of the optimizer (FSDP2): for item tables that do not
fit one device. All options of `TrainingArguments` are flags.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.distributed import DistributedConfig

from hf_rec import RecommendationCollator
from hf_rec.compat import end_together
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.evaluation import ranking_metrics
from hf_rec.training import create_model


@dataclass
class Options:
    """What the Trainer does not know."""

    train_file: str = field(metadata={"help": "Interaction log."})
    max_length: int | None = field(
        default=None, metadata={"help": "Positions of the input; chosen by the histories by default."}
    )
    loss_type: str = field(default="softmax", metadata={"choices": ["softmax", "sampled_softmax", "gbce"]})
    sharded: bool = field(default=False, metadata={"help": "Whether each process holds a part of the weights."})


def shard(model: PreTrainedModel, args: TrainingArguments) -> PreTrainedModel:
    """The model with its weights sharded over all processes; `output_dir/start` keeps the whole ones."""
    start = Path(args.output_dir) / "start"
    with args.main_process_first(desc="saving the first weights"):
        if args.process_index == 0:
            model.save_pretrained(start)
    return type(model).from_pretrained(start, distributed_config=DistributedConfig(fsdp_size=args.world_size))


def main() -> None:
    options, args = HfArgumentParser((Options, TrainingArguments), description=__doc__).parse_args_into_dataclasses()
    set_seed(args.seed)
    splits = leave_one_out(build_sequences(options.train_file))
    model, tokenizer = create_model(splits, {"is_decoder": True, "loss_type": options.loss_type}, options.max_length)
    tokenized = tokenize_splits(splits, tokenizer)
    metrics = ranking_metrics(tokenized["train"], model.config)
    trainer = Trainer(
        model=shard(model, args) if options.sharded else model,
        args=args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        data_collator=RecommendationCollator(model.config),
        processing_class=tokenizer,
        preprocess_logits_for_metrics=metrics.preprocess,
        compute_metrics=metrics.compute,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    results = trainer.evaluate(tokenized["test"], metric_key_prefix="test")
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(json.dumps(results))
    end_together()
    trainer.end()


if __name__ == "__main__":
    main()
