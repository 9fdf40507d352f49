"""A whole training run: model, fit, evaluation beside baselines, saved folder, card and push."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import set_seed
from transformers.utils import logging

from ..data.encode import tokenize_splits
from ..data.tokenization_items import ItemTokenizer
from ..evaluation.evaluate import evaluate, evaluate_baselines, ranking_metrics
from ..hub.card import model_card
from ..hub.folder import check_folder, save_recommender
from ..hub.push import push_recommender
from ..model.configuration_bert4rec import Bert4RecConfig
from .arguments import RecommendationTrainingArguments
from .create import create_model, load_model
from .fit import fit
from .report import Origin, card_facts, plot_training_curve

logger = logging.get_logger(__name__)


def train_recommender(
    splits: DatasetDict,
    args: RecommendationTrainingArguments,
    *,
    model_name_or_path: str | None = None,
    config: Mapping[str, Any] | None = None,
    event_columns: Iterable[str] = (),
    request_columns: Iterable[str] = (),
    collator: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    patience: int | None = 10,
    origin: Origin | None = None,
) -> dict[str, dict[str, float]]:
    """Train on `splits`, evaluate on the test split beside two baselines, and save everything to `args.output_dir`.

    A run that was interrupted in the same directory resumes from its last complete checkpoint.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        args: Arguments of the Trainer, which are not changed.
        model_name_or_path: A saved model to fine-tune, with its catalogue and sizes.
        config: Fields of the [`Bert4RecConfig`]; for a saved model none that its weights depend on.
        event_columns, request_columns: Features of a new model by name, as for [`name_features`].
        collator: Options of the [`RecommendationCollator`] for training.
        max_length: Positions of a new model's input; chosen by the lengths of the histories if None.
        patience: Validations without a better metric after which training stops.
        origin: Names for the model card.

    Returns:
        Test metrics of popularity, of the last-item Markov baseline and of the model, by name.
    """
    origin = origin or Origin()
    output_dir = Path(args.output_dir)
    checkpoint = args.resume_from_checkpoint or resumable_checkpoint(output_dir)
    set_seed(args.seed)
    if model_name_or_path:
        if max_length or event_columns or request_columns:
            raise ValueError("max_length, event_columns and request_columns are options of a new model")
        model, tokenizer = load_model(model_name_or_path, config)
    else:
        model, tokenizer = create_model(splits, config, max_length, event_columns, request_columns)
    if checkpoint:
        check_catalogue(checkpoint, tokenizer)
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    trainer = fit(model, tokenizer, tokenized, args, collator=collator, patience=patience, checkpoint=checkpoint)
    test = evaluate(model, tokenized, trainer.args)
    trainer.save_metrics("test", {f"test_{key}": value for key, value in test.items()})
    if not trainer.is_world_process_zero():
        return {}

    metrics = ranking_metrics(tokenized["train"], model.config)
    baselines = evaluate_baselines(tokenized, model.config, metrics)
    trainer.save_metrics(
        "baselines", {f"{name}_{key}": v for name, row in baselines.items() for key, v in row.items()}
    )
    name = (args.hub_model_id or output_dir.resolve().name).split("/")[-1]
    results = baselines | {name: test}
    facts = card_facts(trainer, splits, metrics.item_counts, origin)
    save_recommender(output_dir, model, tokenizer, model_card(name, origin.dataset, results, facts, args.hub_model_id))
    plot_training_curve(trainer.state.log_history, args.metric_for_best_model, output_dir / "training_curve.png")
    if args.push_to_hub:
        push_recommender(output_dir, trainer.hub_model_id, private=args.hub_private_repo, token=args.hub_token)
    return results


def evaluate_recommender(
    model_name_or_path: str, splits: DatasetDict, exclude_seen: bool | None = None, batch_size: int = 0
) -> dict[str, dict[str, float]]:
    """Test metrics of a saved model and of the baselines, as [`train_recommender`] returns them.

    Args:
        exclude_seen: Whether items of the history are left out; None for the model's own setting.
        batch_size: Histories that are ranked together; 0 chooses by the size of the catalogue.
    """
    config = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    model, tokenizer = load_model(model_name_or_path, config)
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    baselines = evaluate_baselines(tokenized, model.config, ranking_metrics(tokenized["train"], model.config))
    return baselines | {Path(model_name_or_path).name: evaluate(model, tokenized, batch_size=batch_size)}


def resumable_checkpoint(output_dir: Path) -> str | None:
    """The last complete checkpoint of an interrupted run in `output_dir`, if there is one.

    Raises:
        ValueError: for a directory with other content than a run.
    """
    check_folder(output_dir, Bert4RecConfig.model_type)
    if not output_dir.exists():
        return None
    checkpoints = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in checkpoints if is_whole(path)]
    if whole:
        logger.warning(f"resuming from {whole[-1]}; give another --output_dir to start anew")
        return str(whole[-1])
    if not checkpoints and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and has no checkpoint to resume from; give another --output_dir")
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


__all__ = ["evaluate_recommender", "train_recommender"]
