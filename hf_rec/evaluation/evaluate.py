"""Evaluation of a model and of the baselines by ranking the whole catalogue."""

import tempfile
from collections.abc import Callable, Mapping

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import logging

from ..data.collator import RecommendationCollator
from ..data.columns import as_array, list_lengths, report
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.rule_set import RuleSet
from .baselines import BASELINES, Scorer, evaluate_scorer
from .metrics import RankingMetrics, item_counts
from .rules import RuleTrainer
from .variety import VarietyMetrics

logger = logging.get_logger(__name__)

Groups = Mapping[str, np.ndarray]
MAX_SCORES = 2**26  # scores of a batch in evaluation: 256 MB in float32


def ranking_metrics(
    train: Dataset, config: Bert4RecConfig, groups: Groups | None = None, variety: VarietyMetrics | None = None
) -> RankingMetrics:
    """Metrics for a tokenized training split and a model's catalogue; see [`RankingMetrics`] for the others."""
    counts = item_counts(train, config.vocab_size)
    return RankingMetrics(counts, len(config.special_token_ids), groups=groups, variety=variety)


def evaluate(
    model: PreTrainedModel,
    tokenized: DatasetDict,
    args: TrainingArguments | None = None,
    *,
    split: str = "test",
    batch_size: int = 0,
    groups: Groups | None = None,
    rules: RuleSet | None = None,
    variety: VarietyMetrics | None = None,
) -> dict[str, float]:
    """Ranking metrics of a model on a split.

    Args:
        tokenized: As [`tokenize_splits`] returns it; the training split gives the popularity of items.
        args: Where the Trainer runs, such as those of training; the machine's defaults if None.
        split: Name of the split.
        batch_size: Histories that are ranked together; 0 chooses by the size of the catalogue.
        groups: Masks of items, for which accuracy is also given; see [`RankingMetrics`].
        rules: That rank the lists, of a split with the columns of [`add_rule_columns`].
        variety: More metrics of the lists.
    """
    config = model.config
    excluded = "seen_ids" if rules is not None else "input_ids" if config.exclude_seen else None
    share = seen_targets(tokenized[split], config.unk_token_id, excluded) if excluded else 0
    if share > 0.01:
        logger.warning(
            f"{share:.0%} of the {split} targets are items of their user's history, which the ranking leaves out, so "
            "no model can find them; give --include_seen (exclude_seen=False) to rank them, or change the rule "
            "'exclude_seen' if there is one"
        )
    removed = np.isin(as_array(tokenized[split]["labels"]), config.removed_ids or [])
    report(int(removed.sum()), len(removed), f"{split} targets that no ranking can hit, as the items were removed")
    metrics = ranking_metrics(tokenized["train"], config, groups, variety)
    with tempfile.TemporaryDirectory() as scratch:
        options = {
            "model": model,
            "args": evaluation_arguments(scratch, args, batch_size or choose_eval_batch_size(config.vocab_size)),
            "data_collator": RecommendationCollator(config),
            "compute_metrics": metrics.compute,
        }
        if rules is None:
            trainer = Trainer(**options, preprocess_logits_for_metrics=metrics.preprocess)
        else:
            trainer = RuleTrainer(**options, metrics=metrics, rules=rules)
        found = trainer.predict(tokenized[split], metric_key_prefix=split).metrics
    return {name.removeprefix(f"{split}_"): value for name, value in found.items()}


def evaluation_arguments(output_dir: str, args: TrainingArguments | None, batch_size: int) -> TrainingArguments:
    use_cpu = args is not None and args.use_cpu
    disable_tqdm = None if args is None else args.disable_tqdm
    return TrainingArguments(
        output_dir,
        per_device_eval_batch_size=batch_size,
        remove_unused_columns=False,  # the collator reads more than the model
        save_strategy="no",  # the Trainer saves no checkpoints of sharded weights
        use_cpu=use_cpu,
        disable_tqdm=disable_tqdm,
        dataloader_pin_memory=False,
        report_to="none",
    )


def evaluate_baselines(
    tokenized: DatasetDict,
    config: Bert4RecConfig,
    metrics: RankingMetrics,
    split: str = "test",
    baselines: Mapping[str, Callable[[Dataset, int], Scorer]] = BASELINES,
    rules: RuleSet | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of baselines on a split, of popularity and the last-item Markov baseline by default."""
    return {
        name: evaluate_scorer(
            baseline(tokenized["train"], config.vocab_size),
            tokenized[split],
            config,
            metrics,
            choose_eval_batch_size(config.vocab_size),
            description=name,
            rules=rules,
        )
        for name, baseline in baselines.items()
    }


def choose_eval_batch_size(vocab_size: int) -> int:
    """Histories that are ranked together: up to 256, with at most 2**26 scores (256 MB).

    Example:
        >>> choose_eval_batch_size(3_419), choose_eval_batch_size(1_000_003)
        (256, 67)
    """
    return min(max(MAX_SCORES // vocab_size, 1), 256)


def seen_targets(split: Dataset, unk_token_id: int, column: str = "input_ids") -> float:
    """Share of the targets that are items of the history before them, or of another column; unknown items do not
    count.

    Example:
        >>> split = Dataset.from_dict({"input_ids": [[3, 4, 3], [5, 1], [4, 3]], "labels": [3, 1, 5]})
        >>> seen_targets(split, unk_token_id=1)
        0.3333333333333333
    """
    lengths = list_lengths(as_array(split[column]))
    input_ids = as_array(split[column]).flatten().to_numpy()
    same = (input_ids == np.repeat(as_array(split["labels"]), lengths)) & (input_ids != unk_token_id)
    return len(np.unique(np.repeat(np.arange(len(lengths)), lengths)[same])) / len(lengths)


__all__ = ["choose_eval_batch_size", "evaluate", "evaluate_baselines", "ranking_metrics"]
