"""Training a recommender from split sequences, with the Trainer: fit, evaluate, compare, save."""

import json
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from .baselines import evaluate_scorer, item_counts, last_item_markov, popularity
from .collator import RecommendationCollator
from .columns import as_array, list_lengths
from .configuration_bert4rec import Bert4RecConfig
from .data import histories_of, tokenize_splits
from .hub import BERT4REC, SASREC, check_folder, model_card, push_recommender, save_recommender
from .metrics import RankingMetrics
from .modeling_bert4rec import recommender_class
from .optimization import SparseRowAdamW
from .sampler import ShuffledLengthGroupedSampler
from .tokenization_items import ItemTokenizer

logger = logging.get_logger(__name__)

# What a model card tells of an encoder and of a decoder.
KINDS = {
    False: ("BERT4Rec encoder", "AutoModelForMaskedLM", BERT4REC),
    True: ("causal Transformer, after SASRec,", "AutoModelForCausalLM", SASREC),
}
# Fields of the configuration that fit the weights of any saved model.
CHANGEABLE = {
    "is_decoder",
    "exclude_seen",
    "loss_type",
    "num_negatives",
    "gbce_calibration",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
}
# Items from which on a new model is trained with sampled negatives, and an item's row only in steps that read it.
LARGE_CATALOGUE = 100_000
# Positions of a new model's input when nine in ten histories are short.
SHORT = 50
MIN_STEPS = 1_000


class Recipe(NamedTuple):
    """Sizes of a new model, and how it is trained."""

    hidden_size: int
    hidden_dropout_prob: float
    learning_rate: float
    weight_decay: float
    interactions_per_step: int
    use_repeat_bias: bool = False


# By whether the model is a decoder, and whether its input is of up to `SHORT` positions. Chosen on validation, but
# for masked items in short histories, which follow the others.
RECIPES = {
    (True, True): Recipe(128, 0.3, 2e-3, 2.0, 50),
    (True, False): Recipe(64, 0.2, 2e-3, 1.0, 100, use_repeat_bias=True),
    (False, True): Recipe(128, 0.3, 2e-3, 0.2, 25),
    (False, False): Recipe(128, 0.1, 1e-3, 0.2, 80, use_repeat_bias=True),
}


@dataclass
class RecommendationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults for a recommender, which hold from small to large logs.

    Training takes the steps of the recipe, at least 1,000, unless `num_train_epochs` or `max_steps` says otherwise.
    The rate decays to zero; 25 validations. What is left to be chosen, [`train_recommender`] chooses; for a Trainer of
    your own, give the rate, the decay, the steps and the batch sizes.
    """

    per_device_train_batch_size: int = field(
        default=0, metadata={"help": "Histories per device and part of a training step; 0 to choose by their length."}
    )
    gradient_accumulation_steps: int = field(
        default=4,
        metadata={"help": "Parts of a training step; with 'group_by_length', each has histories of similar length."},
    )
    per_device_eval_batch_size: int = field(
        default=0, metadata={"help": "Histories per device in evaluation; 0 to choose by the size of the catalogue."}
    )
    num_train_epochs: float | None = field(default=None, metadata={"help": "Epochs, instead of the steps below."})
    max_steps: int = field(default=0, metadata={"help": "Steps; 0 to choose by the number of interactions."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; chosen by objective and length if not given."}
    )
    weight_decay: float | None = field(
        default=None,
        metadata={"help": "AdamW's, times the rate in each step; chosen by objective and length if not given."},
    )
    warmup_steps: float = field(default=100, metadata={"help": "Steps to the peak; below 1, a share of all steps."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "Histories of similar length share a part of a step, which saves padding; or 'random'."},
    )
    eval_strategy: str = field(default="steps", metadata={"help": "When to validate: 'steps', 'epoch' or 'no'."})
    eval_steps: float | None = field(default=0.04, metadata={"help": "Steps between; below 1, a share of all steps."})
    save_strategy: str = field(default="steps", metadata={"help": "When to save a checkpoint; as `eval_strategy`."})
    save_steps: float = field(default=0.04, metadata={"help": "Steps between; below 1, a share of all steps."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep beside the best one."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best model, not the last."})
    metric_for_best_model: str = field(default="ndcg@10", metadata={"help": "What 'best' and early stopping go by."})
    logging_steps: float = field(default=0.04, metadata={"help": "Steps between; below 1, a share of all steps."})
    hub_strategy: str = field(
        default="end",
        metadata={"help": "All is pushed at the end: what the Trainer pushes before holds its arguments, pickled."},
    )
    report_to: str = field(default="none", metadata={"help": "Experiment trackers, such as 'tensorboard'."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Pinned memory for GPU transfers."})

    def __post_init__(self):
        if self.num_train_epochs is None:
            self.num_train_epochs = 3.0  # TrainingArguments' own; the steps count
        elif self.max_steps == 0:
            self.max_steps = -1
        super().__post_init__()
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"hub_strategy must be 'end', got {self.hub_strategy.value!r}: before, the Trainer would push its "
                "arguments, pickled, with the hub_token"
            )


class RecommendationTrainer(Trainer):
    """The Trainer, with steps of any histories and parts of steps with those of similar length."""

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        lengths = np.minimum(sampler.lengths[:], self.model.config.max_position_embeddings).tolist()
        return ShuffledLengthGroupedSampler(sampler.batch_size, lengths, self.args.seed)


class Stopwatch(TrainerCallback):
    """Notes in the log how many seconds training took so far, validation and what came before an interruption
    included."""

    start = None

    def on_train_begin(self, args, state, *_args, **_kwargs):  # noqa: ARG002
        before = max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
        self.start = time.perf_counter() - before

    def on_log(self, args, state, *_args, **_kwargs):  # noqa: ARG002
        if self.start is not None:
            state.log_history[-1]["seconds"] = time.perf_counter() - self.start


def train_recommender(
    splits: DatasetDict,
    args: RecommendationTrainingArguments,
    *,
    model_name_or_path: str | None = None,
    config: Mapping[str, Any] | None = None,
    collator: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    patience: int = 10,
    dataset: str = "an interaction log",
    split: str = "leave-one-out",
    command: str = "python scripts/train.py",
) -> dict[str, dict[str, float]]:
    """Train on `splits`, evaluate on its test part beside two baselines, and save all to `args.output_dir`.

    Training that was interrupted in the same directory goes on from its last whole checkpoint.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        args: What the Trainer does, and where results go.
        model_name_or_path: A saved model to fine-tune; its catalogue and sizes then hold.
        config: Fields of the [`Bert4RecConfig`]; of a saved model, none that its weights depend on.
        collator: Options of the [`RecommendationCollator`] for training; `exclude_seen` is one of `config`.
        max_length: Positions of a new model's input; chosen by the lengths of the histories if None.
        patience: Evaluations without a better metric after which training stops.
        dataset: Name of the data, for the model card.
        split: Name of the split, for the model card.
        command: How to run this training again, for the model card.

    Returns:
        Test metrics of popularity, of the last-item Markov baseline and of the model, by name.
    """
    output_dir = Path(args.output_dir)
    checkpoint = args.resume_from_checkpoint or resumable_checkpoint(output_dir)
    set_seed(args.seed)
    model, tokenizer = load_or_create(splits, model_name_or_path, config, max_length)
    if checkpoint:
        check_catalogue(checkpoint, tokenizer)
    tokenized = tokenize_splits(splits, tokenizer, model.config.use_time_gaps)
    collate = suitable_collator(model, tokenizer, **(collator or {}))
    recipe = suitable_recipe(model.config.is_decoder, tokenizer.model_max_length)
    lengths = tokenized["train"]["length"][:]
    step = suitable_batch_size(lengths, tokenizer.model_max_length)
    parts = args.gradient_accumulation_steps * args.world_size
    args.per_device_train_batch_size = args.per_device_train_batch_size or max(step // parts, 1)
    args.max_steps = args.max_steps or max(sum(lengths) // recipe.interactions_per_step, MIN_STEPS)
    trainer, metrics = ranking_trainer(model, tokenized, collate, args, patience)
    fitted = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_metrics("train", fitted.metrics)
    trainer.save_state()
    test = trainer.predict(tokenized["test"]).metrics
    trainer.save_metrics("test", test)
    if not trainer.is_world_process_zero():
        return {}

    baselines = evaluate_baselines(tokenized, collate, metrics)
    trainer.save_metrics(
        "baselines", {f"{name}_{key}": v for name, row in baselines.items() for key, v in row.items()}
    )
    name = (args.hub_model_id or output_dir.resolve().name).split("/")[-1]
    results = baselines | {name: {key.removeprefix("test_"): value for key, value in test.items()}}
    kind, auto_class, citation = KINDS[model.config.is_decoder]
    timed = model.config.use_time_gaps
    protocol = (
        f"Split: {split}. Full ranking over the whole catalogue, items of the user's history "
        f"{'excluded' if collate.exclude_seen else 'not excluded'}, all {len(splits['test']):,} test users."
    )
    if timed:
        protocol += " The model knows the times of the items and of the request."
    facts = {
        "architecture": f"a {kind} of {model.num_parameters():,} parameters",
        "auto_class": auto_class,
        "citation": citation,
        "num_items": metrics.num_items,
        "num_users": len(splits["train"]),
        "num_interactions": int(metrics.item_counts.sum()),
        "example": recent_items(histories_of(splits["test"].select([0]), timed)[0]),
        "protocol": protocol,
        "command": command,
        "seed": args.seed,
        "steps": trainer.state.global_step,
        "seconds": trainer.state.log_history[-1]["seconds"],
        "machine": machine(args),
        "versions": ", ".join(f"{package} {version(package)}" for package in ("hf_rec", "torch", "transformers")),
    }
    save_recommender(output_dir, model, tokenizer, model_card(name, dataset, results, facts, args.hub_model_id))
    plot_training_curve(trainer.state.log_history, args.metric_for_best_model, output_dir / "training_curve.png")
    if args.push_to_hub:
        push_recommender(output_dir, trainer.hub_model_id, private=args.hub_private_repo, token=args.hub_token)
    return results


def evaluate_recommender(
    model_name_or_path: str, splits: DatasetDict, exclude_seen: bool | None = None, batch_size: int = 0
) -> dict[str, dict[str, float]]:
    """Test metrics of a saved model and of the baselines, as [`train_recommender`] returns them.

    Without `exclude_seen`, the model's own holds; a `batch_size` of 0 is chosen by the size of the catalogue.
    """
    config = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    model, tokenizer = load_or_create(splits, model_name_or_path, config)
    tokenized = tokenize_splits(splits, tokenizer, model.config.use_time_gaps)
    collate = suitable_collator(model, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        args = RecommendationTrainingArguments(scratch, per_device_eval_batch_size=batch_size)
        trainer, metrics = ranking_trainer(model, tokenized, collate, args)
        test = trainer.predict(tokenized["test"]).metrics
    name = Path(model_name_or_path).name
    return evaluate_baselines(tokenized, collate, metrics) | {
        name: {key.removeprefix("test_"): value for key, value in test.items()}
    }


def ranking_trainer(
    model: PreTrainedModel,
    tokenized: DatasetDict,
    collate: RecommendationCollator,
    args: TrainingArguments,
    patience: int | None = None,
) -> tuple[Trainer, RankingMetrics]:
    """A Trainer that evaluates by ranking, and its metrics."""
    tokenizer = collate.tokenizer
    metrics = RankingMetrics(
        item_counts(tokenized["train"], len(tokenizer)), num_special_tokens=len(tokenizer.all_special_ids)
    )
    seen = seen_targets(tokenized["test"], tokenizer.unk_token_id) if collate.exclude_seen else 0
    if seen > 0.01:
        logger.warning(
            f"{seen:.0%} of the test targets are items of their user's history, which the ranking leaves out, so "
            "that no model finds them; to rank them, give --include_seen (exclude_seen=False)"
        )
    args.per_device_eval_batch_size = args.per_device_eval_batch_size or suitable_eval_batch_size(len(tokenizer))
    recipe = suitable_recipe(model.config.is_decoder, tokenizer.model_max_length)
    for name in ("learning_rate", "weight_decay"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(recipe, name))
    rowwise = updates_rows(model.config) and args.world_size == 1 and not args.fp16
    model.get_input_embeddings().sparse = rowwise
    callbacks = [Stopwatch()]
    if patience and args.load_best_model_at_end:
        callbacks.append(EarlyStoppingCallback(patience))
    trainer = RecommendationTrainer(
        model=model,
        args=args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        data_collator=collate,
        processing_class=tokenizer,
        preprocess_logits_for_metrics=metrics.preprocess,
        compute_metrics=metrics.compute,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=(SparseRowAdamW, adam_arguments(args)) if rowwise else None,
    )
    return trainer, metrics


def recent_items(history: list[str] | dict, count: int = 3) -> list[str] | dict:
    """The end of a history, with its times if it has them."""
    if isinstance(history, dict):
        return history | {name: history[name][-count:] for name in ("item_ids", "timestamps")}
    return history[-count:]


def seen_targets(split: Dataset, unk_token_id: int) -> float:
    """Share of the targets that stand in the history before them, unknown items aside.

    Example:
        >>> split = Dataset.from_dict({"input_ids": [[3, 4, 3], [5, 1], [4, 3]], "labels": [3, 1, 5]})
        >>> seen_targets(split, unk_token_id=1)
        0.3333333333333333
    """
    lengths = list_lengths(as_array(split["input_ids"]))
    input_ids = as_array(split["input_ids"]).flatten().to_numpy()
    same = (input_ids == np.repeat(as_array(split["labels"]), lengths)) & (input_ids != unk_token_id)
    return len(np.unique(np.repeat(np.arange(len(lengths)), lengths)[same])) / len(lengths)


def updates_rows(config: Bert4RecConfig) -> bool:
    """Whether a training step updates only the rows of the item table that it reads."""
    return config.loss_type != "softmax" and config.vocab_size >= LARGE_CATALOGUE


def adam_arguments(args: TrainingArguments) -> dict[str, Any]:
    return {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


def evaluate_baselines(
    tokenized: DatasetDict, collate: RecommendationCollator, metrics: RankingMetrics
) -> dict[str, dict[str, float]]:
    """Test metrics of popularity and of the last-item Markov baseline."""
    collate = replace(collate, objective="cloze")  # histories end at one place
    return {
        name: evaluate_scorer(
            baseline(tokenized["train"], len(collate.tokenizer)),
            tokenized["test"],
            collate,
            metrics,
            suitable_eval_batch_size(len(collate.tokenizer)),
            description=name,
        )
        for name, baseline in (("popularity", popularity), ("last-item Markov", last_item_markov))
    }


def load_or_create(
    splits: DatasetDict,
    model_name_or_path: str | None,
    config: Mapping[str, Any] | None = None,
    max_length: int | None = None,
) -> tuple[PreTrainedModel, ItemTokenizer]:
    """A saved model and its tokenizer, or new ones over the items of all splits: the whole catalogue is ranked.

    A new model of a large catalogue is trained with "sampled_softmax"; one of a smaller catalogue has a repeat bias if
    histories are long or their items are ranked, too; unless `config` says otherwise. Of a saved model it may change
    what is learned, from next items to masked ones for instance, but not what its weights are for.
    """
    if model_name_or_path:
        saved = Bert4RecConfig.from_pretrained(model_name_or_path)
        asked = dict(config or {}) | ({"max_position_embeddings": max_length} if max_length else {})
        fixed = {name: getattr(saved, name) for name in asked.keys() - CHANGEABLE}
        if changed := sorted(name for name in fixed if asked[name] != fixed[name]):
            raise ValueError(
                f"{model_name_or_path} was made with {', '.join(f'{name}={fixed[name]!r}' for name in changed)}, "
                "which cannot be changed"
            )
        tokenizer = ItemTokenizer.from_pretrained(model_name_or_path)
        config = Bert4RecConfig.from_pretrained(model_name_or_path, **asked)
        config.validate()  # of what was changed
        return recommender_class(config).from_pretrained(model_name_or_path, config=config), tokenizer
    max_length = max_length or suitable_max_length(list_lengths(as_array(splits["train"]["item_ids"])))
    items = [as_array(splits[name]["item_ids"]).flatten() for name in ("train", "validation", "test")]
    targets = [as_array(splits[name]["target_id"]) for name in ("validation", "test")]
    tokenizer = ItemTokenizer.from_items(pa.concat_arrays(items + targets), max_length=max_length)
    config = dict(config or {})
    recipe = suitable_recipe(config.get("is_decoder", False), max_length)
    loss_type = config.get("loss_type", "softmax" if len(tokenizer) < LARGE_CATALOGUE else "sampled_softmax")
    defaults = {
        "hidden_size": recipe.hidden_size,
        "hidden_dropout_prob": recipe.hidden_dropout_prob,
        "loss_type": loss_type,
        "use_repeat_bias": loss_type == "softmax" and (recipe.use_repeat_bias or not config.get("exclude_seen", True)),
    }
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": max_length}
    config = Bert4RecConfig(**sizes, **(defaults | config))
    return recommender_class(config)(config), tokenizer


def suitable_collator(model: PreTrainedModel, tokenizer: ItemTokenizer, **options) -> RecommendationCollator:
    """A collator that asks what the model learns, and bans what it does not rank."""
    objective = "next-item" if model.config.is_decoder else "cloze"
    return RecommendationCollator(tokenizer, objective=objective, exclude_seen=model.config.exclude_seen, **options)


def suitable_max_length(lengths: np.ndarray) -> int:
    """Positions of a new model's input: 50, 100 or 200, the first that takes nine in ten histories, or else 200.

    Example:
        >>> suitable_max_length(np.array([5, 8, 60])), suitable_max_length(np.array([5] * 9 + [60]))
        (100, 50)
    """
    return next((length for length in (SHORT, 100) if np.mean(lengths < length) >= 0.9), 200)


def suitable_batch_size(lengths: list[int], max_length: int) -> int:
    """Histories in a training step: the power of two, from 32 to 128, that gives nearest to 4,096 items.

    Example:
        >>> suitable_batch_size([100, 180], max_length=200), suitable_batch_size([6, 9], max_length=200)
        (32, 128)
    """
    mean = np.minimum(lengths, max_length).mean()
    return int(2 ** np.clip(np.round(np.log2(4096 / mean)), 5, 7))


def suitable_recipe(is_decoder: bool, max_length: int) -> Recipe:
    """The recipe for what is learned and how long the input is.

    Example:
        >>> suitable_recipe(is_decoder=True, max_length=50).weight_decay
        2.0
    """
    return RECIPES[is_decoder, max_length <= SHORT]


def suitable_eval_batch_size(vocab_size: int) -> int:
    """Histories that are ranked together: up to 256, as long as their scores are no more than 2**26 (256 MB).

    Example:
        >>> suitable_eval_batch_size(3_419), suitable_eval_batch_size(1_000_003)
        (256, 67)
    """
    return min(max(2**26 // vocab_size, 1), 256)


def resumable_checkpoint(output_dir: Path) -> str | None:
    """The last whole checkpoint of an interrupted run in `output_dir`, if there is one.

    Raises:
        ValueError: for a directory that holds something else than a run.
    """
    check_folder(output_dir, Bert4RecConfig.model_type)
    if not output_dir.exists():
        return None
    checkpoints = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in checkpoints if is_whole(path)]
    if whole:
        logger.warning(f"going on from {whole[-1]}; give another --output_dir to start afresh")
        return str(whole[-1])
    if not checkpoints and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and holds no checkpoint to go on from; give another --output_dir")
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether the Trainer finished writing a checkpoint: it writes `trainer_state.json` last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True


def check_catalogue(checkpoint: str, tokenizer: ItemTokenizer) -> None:
    """Raise if a checkpoint was trained on other items."""
    if not ItemTokenizer.from_pretrained(checkpoint).item_ids.equals(tokenizer.item_ids):
        raise ValueError(f"{checkpoint} was trained on another catalogue of items; give another --output_dir")


def plot_training_curve(log_history: list[dict[str, float]], metric: str, path: Path) -> None:
    """Training loss and validation metric by epoch, as a PNG; without matplotlib there is a warning and no plot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("no plot of the training curve: pip install 'hf_rec[plots]'")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    for axes, key, color, label in (
        (left, "loss", "tab:gray", "training loss"),
        (right, f"eval_{metric.removeprefix('eval_')}", "tab:blue", f"validation {metric}"),
    ):
        points = [(entry["epoch"], float(entry[key])) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=".")
        axes.set_ylabel(label, color=color)
    left.set_xlabel("epoch")
    figure.savefig(path, dpi=120)


def machine(args: TrainingArguments) -> str:
    if args.device.type != "cpu":
        return f"{args.world_size} x {torch.accelerator.current_accelerator()}"
    processes = f"{args.world_size} x " if args.world_size > 1 else ""
    return f"{processes}{torch.get_num_threads()} CPU thread(s) ({platform.machine()})"


__all__ = ["RecommendationTrainer", "RecommendationTrainingArguments", "evaluate_recommender", "train_recommender"]
