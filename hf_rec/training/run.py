"""A whole training run: model, fit, evaluation beside baselines, saved folder, card and push."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import DatasetDict
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from ..compat import last_log
from ..data.encode import tokenize_splits
from ..data.splits import hold_out_items
from ..data.streams import TrainingShards
from ..data.tokenization_items import ItemTokenizer
from ..evaluation.baselines import BASELINES, NAMES, content_nearest, random_order
from ..evaluation.evaluate import evaluate, evaluate_baselines, ranking_metrics
from ..evaluation.rules import add_rule_columns, catalogue_of, compile_rules
from ..evaluation.variety import VarietyMetrics
from ..hub.card import RECOMMENDER, CardKind, model_card
from ..hub.folder import save_recommender, write_json
from ..hub.push import push_recommender
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.item_columns import ItemColumns
from ..model.rule_set import RuleSet
from ..model.rules import Variety
from .arguments import RecommendationTrainingArguments, complete_arguments, count_targets, fine_tuning_arguments
from .categories import extend_event_categories
from .checkpoints import RESULTS, RunFolder, check_processes, fingerprint_weights, identify_run
from .create import all_items, create_model, load_model
from .distill import Distillation, make_distillation
from .fine_tune import fine_tune
from .fit import Rows, fit
from .growth import add_items, remove_items, replace_items
from .hooks import OURS, Hooks
from .new_items import choose_new_item_offset
from .report import Origin, card_facts, plot_training_curve


def train_recommender(
    splits: DatasetDict,
    args: RecommendationTrainingArguments,
    *,
    model_name_or_path: str | None = None,
    config: Mapping[str, Any] | None = None,
    event_columns: Iterable[str] = (),
    request_columns: Iterable[str] = (),
    items=None,
    item_columns: Iterable[str] = (),
    item_column: str = "item_id",
    kept_columns: Iterable[str] = (),
    removed: Iterable[str] = (),
    replace: bool = False,
    hold_out: float = 0.0,
    new_item_loss: float = 0.05,
    collator: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    patience: int | None = 10,
    teachers: Sequence[str] = (),
    distillation: Mapping[str, float] | None = None,
    origin: Origin | None = None,
    shards: TrainingShards | None = None,
    catalogue: pa.Table | None = None,
    hooks: Hooks = OURS,
) -> dict[str, dict[str, float]]:
    """Train on `splits`, evaluate on the test split beside two baselines, and save everything to `args.output_dir`.

    An interrupted run resumes from its last complete checkpoint; a finished run is not repeated. What identifies a run
    is stored in its folder, and another run there is an error.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        args: Arguments of the Trainer, which are not changed.
        model_name_or_path: A saved model to fine-tune, with fewer steps and a lower rate than a new one where `args`
            leave them open. Items and categories that it does not know are added.
        config: Fields of the [`Bert4RecConfig`]; for a saved model none that its weights depend on.
        event_columns, request_columns: Features of a new model by name, as for [`name_features`].
        items: A table with the content of the items, as for [`align_items`].
        item_columns: Its columns that a new model reads, as for [`name_item_features`].
        item_column: Its column of the item id.
        kept_columns: Its columns that a new model keeps for rules and answers, as for [`item_columns`].
        removed: Items of a saved model that are no longer recommended.
        replace: Whether a saved model forgets its catalogue and gets that of `splits`, as [`replace_items`] does it;
            it is then trained like a new one.
        hold_out: Share of the items that are left out of training, the newest ones, and added afterwards, to measure
            how well new items are recommended.
        new_item_loss: Share of the validation NDCG@10 of known items that may be lost to place new items higher; see
            [`choose_new_item_offset`].
        collator: Options of the [`RecommendationCollator`] for training.
        max_length: Positions of a new model's input; chosen by the lengths of the histories if None.
        patience: Validations without a better metric after which training stops.
        teachers: Folders or Hub ids of models trained on the same log, from whose scores the model learns, too.
        distillation: Options of [`Distillation`].
        origin: Names for the model card.
        shards: Sequences of more users than `splits` have, whose training part the model is trained on; `splits` are
            then for evaluation, the baselines and the fit of features.
        catalogue: The items in place of those of `splits` or `shards`, as for [`create_model`].
        hooks: Parts of the run in place of ours.

    Returns:
        Test metrics of popularity, of the last-item Markov baseline and of the model, by name.
    """
    origin = origin or Origin()
    check_processes(args)
    name = model_name(args)
    folder = RunFolder(args.output_dir, Bert4RecConfig.model_type, args.overwrite_output_dir)
    removed = list(removed)
    check_options(model_name_or_path, bool(removed or replace), hold_out, shards)
    check_hooks(hooks, model_name_or_path, teachers)
    whole, new_items = splits, []
    if hold_out:
        splits, new_items = hold_out_items(splits, hold_out)
    set_seed(args.seed)
    catalogue = shards.shards.items if shards and catalogue is None else catalogue
    if model_name_or_path:
        if event_columns or request_columns or item_columns or kept_columns:
            raise ValueError(
                "event_columns, request_columns, item_columns and kept_columns are options of a new model"
            )
        fields = dict(config or {}) | ({"max_position_embeddings": max_length} if max_length else {})
        model, tokenizer = load_model(model_name_or_path, fields)
        tokenizer = meet_log(model, tokenizer, splits, replace, items, item_column, catalogue)
        remove_items(model, tokenizer, removed)
    else:
        model, tokenizer = create_model(
            *(splits, config, max_length, event_columns, request_columns, items, item_columns, item_column),
            *(kept_columns, catalogue, hooks),
        )
    check_collator(model.config, collator)
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    further = model_name_or_path and not replace
    complete, train = (fine_tuning_arguments, fine_tune) if further else (complete_arguments, fit)
    targets = round(count_targets(model.config, tokenized["train"]) / (shards.share if shards else 1))
    completed = complete(args, model.config, tokenized["train"]["length"][:], targets)
    identity = identify_run(
        model,
        tokenized,
        completed,
        collator=dict(collator or {}),
        patience=patience,
        split=origin.split,
        new_items=new_items,
    )
    distilled = make_distillation(teachers, model, tokenizer, **distillation or {})
    identity |= identify_teachers(distilled) | ({"shards": shards.identity} if shards else {})
    main_process = args.process_index == 0
    with folder if main_process else nullcontext():
        with args.main_process_first(desc="opening the output folder"):
            folder.begin(identity)
        if (stored := folder.finished()) is not None:
            push_run(folder.path, args)
            return named_results(stored, name)
        checkpoint = folder.choose_checkpoint(args.resume_from_checkpoint)
        rows = training_rows(shards, model, tokenizer, completed) if shards else None
        options = {"collator": collator, "patience": patience, "checkpoint": checkpoint, "hooks": hooks}
        trainer = train(model, tokenizer, tokenized, completed, **options, distillation=distilled, rows=rows)
        if model.config.item_features:
            model.config.new_item_offset = choose_new_item_offset(model, tokenized, new_item_loss)
        if new_items:
            add_items(model, tokenizer, new_items, items, item_column)
            tokenized = tokenize_splits(
                DatasetDict(whole | {"train": splits["train"]}), tokenizer, model.config.features
            )
        groups = new_and_known(tokenizer, new_items)
        batch_size = trainer.args.per_device_eval_batch_size
        test = evaluate(model, tokenized, trainer.args, batch_size=batch_size, groups=groups)
        if not main_process:
            return {}
        metrics = ranking_metrics(tokenized["train"], model.config, groups)
        results = evaluate_baselines(tokenized, model.config, metrics, baselines=baselines_for(model, new_items))
        results["test"] = test
        facts = card_facts(trainer, splits, metrics.item_counts, origin, shards)
        results = save_run(folder.path, trainer, model, tokenizer, results, facts, origin)
    push_run(folder.path, args)
    return results


def push_run(folder: Path, args: RecommendationTrainingArguments) -> None:
    """Push the folder of a finished run, if the arguments say so."""
    if args.push_to_hub and args.process_index == 0:
        repo = args.hub_model_id or folder.resolve().name
        push_recommender(folder, repo, private=args.hub_private_repo, token=args.hub_token)


def save_run(
    folder: Path,
    trainer: Trainer,
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    results: dict[str, dict[str, float]],
    facts: Mapping[str, object],
    origin: Origin,
    kind: CardKind = RECOMMENDER,
) -> dict[str, dict[str, float]]:
    """Write what a run found and made: results, learning curve, card, and the model at the very end.

    Args:
        results: Test metrics by name, those of the model under "test".
        facts: Of the card, as for [`model_card`].

    Returns:
        The results, those of the model under its name.
    """
    args, log, name = trainer.args, trainer.state.log_history, model_name(trainer.args)
    trainer.save_state()
    write_json(folder / RESULTS, flat_results(results, last_log(trainer.state)))
    plot_training_curve(log, args.metric_for_best_model, folder / "training_curve.png")
    results = {name if row == "test" else row: metrics for row, metrics in results.items()}
    repo, license, hub_dataset = args.hub_model_id, origin.license, origin.hub_dataset
    card = model_card(name, origin.dataset, results, facts, repo, license, hub_dataset, kind)
    save_recommender(folder, model, tokenizer, card)
    return results


def check_options(
    model_name_or_path: str | None, changes_items: bool, hold_out: float, shards: TrainingShards | None
) -> None:
    """Raise for options that do not go together."""
    if changes_items and not model_name_or_path:
        raise ValueError("to remove or replace items is an option of a saved model (--remove_items, --replace_items)")
    if hold_out and shards:
        raise ValueError("items are held out of a whole log; leave out --hold_out_items, or give the log itself")


def check_collator(config: Bert4RecConfig, collator: Mapping[str, Any] | None) -> None:
    """Raise for options of masks for a model that has none."""
    masks = [name for name in ("mask_probability", "last_item_probability") if name in (collator or {})]
    if config.is_decoder and masks:
        raise ValueError(f"{masks} are options of the masked model (--objective cloze), and this one is causal")


def check_hooks(hooks: Hooks, model_name_or_path: str | None, teachers: Sequence[str]) -> None:
    """Raise for hooks that a run would not use."""
    if model_name_or_path and hooks.build_model is not OURS.build_model:
        raise ValueError("hooks.build_model builds new models, and a saved one was given; change it after loading")
    if teachers and hooks.trainer is not OURS.trainer:
        raise ValueError(f"teachers need the Trainer of distillation, and hooks.trainer={hooks.trainer!r} was given")


def training_rows(
    shards: TrainingShards, model: PreTrainedModel, tokenizer: ItemTokenizer, args: TrainingArguments
) -> Rows:
    """The rows of all users; those of a stream in steps of this process."""
    with args.main_process_first(desc="mapping the shards into memory"):
        return shards.rows(
            tokenizer,
            model.config.features,
            step_size=args.train_batch_size * args.gradient_accumulation_steps,
            seed=args.seed,
            rank=args.process_index,
            world_size=args.world_size,
        )


def identify_teachers(distillation: Distillation | None) -> dict[str, Any]:
    """What distillation adds to the identity of a run."""
    if distillation is None:
        return {}
    weights = [fingerprint_weights(teacher) for teacher in distillation.teachers]
    return {"distillation": distillation.options | {"teachers": weights}}


def meet_log(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    splits: DatasetDict,
    replace: bool,
    items,
    item_column: str,
    catalogue: pa.Table | None = None,
) -> ItemTokenizer:
    """Let a saved model know the items and the categories of other splits, in place; returns its tokenizer.

    Args:
        catalogue: As for [`create_model`].

    Raises:
        ValueError: for a table of items of which the model reads and keeps nothing.
    """
    if items is not None and not model.config.item_features and model.item_columns is None:
        raise ValueError("the model reads and keeps no columns of items; leave out the table of items (--items_file)")
    item_ids = all_items(splits) if catalogue is None else catalogue["item_id"]
    if replace:
        tokenizer = replace_items(model, tokenizer, item_ids, items, item_column)
    else:
        add_items(model, tokenizer, item_ids, items, item_column)
    extend_event_categories(model, splits["train"])
    return tokenizer


def new_and_known(tokenizer: ItemTokenizer, new_items: Iterable[str]) -> dict[str, np.ndarray]:
    """Masks of the tokens of new items, "cold", and of all others, "warm"; none without new items."""
    if not new_items:
        return {}
    cold = np.zeros(len(tokenizer), dtype=bool)
    cold[tokenizer.convert_tokens_to_ids(list(new_items))] = True
    cold[tokenizer.all_special_ids] = False  # of items that the model does not know
    return {"cold": cold, "warm": ~cold}


def baselines_for(model: PreTrainedModel, new_items: Iterable[str]) -> dict[str, Callable]:
    """The baselines that stand beside a model; for new items also a random order and the nearest content."""
    more = {"random": random_order()} if new_items else {}
    if new_items and model.items.content is not None:
        more["content_nearest"] = content_nearest(model.items.content)
    return BASELINES | more


def model_name(args: RecommendationTrainingArguments) -> str:
    """The name of a model on its card: that of its repository or folder.

    Raises:
        ValueError: for the name of a baseline, which has a row of its own on the card.
    """
    name = (args.hub_model_id or Path(args.output_dir).resolve().name).split("/")[-1]
    if name in NAMES:
        raise ValueError(f"a model cannot be called like the baseline {name!r}; give another --output_dir")
    return name


def flat_results(results: Mapping[str, Mapping[str, float]], log: Mapping[str, float]) -> dict[str, float]:
    """The content of `all_results.json`: metrics with the name of the baseline, or "test", before them."""
    flat = {f"{name}_{metric}": value for name, row in results.items() for metric, value in row.items()}
    return flat | {key: value for key, value in log.items() if key == "epoch" or key.startswith("train_")}


def named_results(flat: Mapping[str, float], model_name: str) -> dict[str, dict[str, float]]:
    """The inverse of [`flat_results`], with the model under its name."""
    names = {name: name for name in NAMES if f"{name}_mrr" in flat}
    names["test"] = model_name
    return {
        name: {key.removeprefix(f"{prefix}_"): value for key, value in flat.items() if key.startswith(f"{prefix}_")}
        for prefix, name in names.items()
    }


def evaluate_recommender(
    model_name_or_path: str,
    splits: DatasetDict,
    exclude_seen: bool | None = None,
    batch_size: int = 0,
    hold_out: float = 0.0,
    rules=None,
    items: Callable[[ItemTokenizer, np.ndarray], ItemColumns | None] | None = None,
    variety_column: str | None = None,
) -> dict[str, dict[str, float]]:
    """Test metrics of a saved model and of the baselines, as [`train_recommender`] returns them.

    Args:
        exclude_seen: Whether items of the history are left out; None for the model's own setting.
        batch_size: Histories that are ranked together; 0 chooses by the size of the catalogue.
        hold_out: Share of the items that training left out, as for [`train_recommender`].
        rules: In place of the saved ones, as [`parse_rules`] takes them; `[]` for none. The baselines obey them, too.
        items: A function of the tokenizer and the (vocab_size,) interactions of the training data, whose item columns
            take the place of the saved ones.
        variety_column: Item column of categories for the metrics of variety, which also come with rules; that of a
            rule "variety" if None.
    """
    new_items = []
    if hold_out:
        left, new_items = hold_out_items(splits, hold_out)
        splits = DatasetDict(splits | {"train": left["train"]})
    config = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    model, tokenizer = load_model(model_name_or_path, config)
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    groups = new_and_known(tokenizer, new_items)
    metrics = ranking_metrics(tokenized["train"], model.config, groups)
    columns = None if items is None else items(tokenizer, metrics.item_counts)
    compiled = compile_rules(model, tokenizer, rules, columns)
    if compiled is not None:
        test = add_rule_columns(tokenized["test"], splits["test"], tokenizer, compiled, model.config.exclude_seen)
        tokenized = DatasetDict(tokenized | {"test": test})
    if compiled is not None or variety_column:
        catalogue = catalogue_of(model, tokenizer, columns) if compiled is None else compiled.catalogue
        column = variety_column or column_of_variety(compiled)
        histories = tokenized["test"]["input_ids"][:]
        metrics.variety = VarietyMetrics.of(catalogue, histories, model.config.pad_token_id, column)
    baselines = baselines_for(model, new_items)
    results = evaluate_baselines(tokenized, model.config, metrics, baselines=baselines, rules=compiled)
    own = evaluate(model, tokenized, batch_size=batch_size, groups=groups, rules=compiled, variety=metrics.variety)
    return results | {Path(model_name_or_path).name: own}


def column_of_variety(rules: RuleSet) -> str | None:
    """The first column that a rule "variety" compares items by, None if there is none."""
    return next((rule.over for rule in rules.of_kind(Variety) if rule.over), None)


__all__ = ["evaluate_recommender", "train_recommender"]
