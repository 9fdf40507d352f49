import copy

import pytest

from hf_rec import Bert4RecConfig
from hf_rec.training.arguments import RecommendationTrainingArguments, complete_arguments, fine_tuning_arguments
from hf_rec.training.recipes import choose_recipe

CONFIG = Bert4RecConfig(vocab_size=1_003, max_position_embeddings=50, is_decoder=True)
LENGTHS = [8] * 1_000


def test_what_is_open_is_chosen_in_a_copy(tmp_path):
    args = RecommendationTrainingArguments(str(tmp_path))
    before = copy.deepcopy(args)
    completed = complete_arguments(args, CONFIG, LENGTHS)
    recipe = choose_recipe(True, 50)
    assert args == before and completed is not args
    assert (completed.learning_rate, completed.weight_decay) == (recipe.learning_rate, recipe.weight_decay)
    assert completed.per_device_train_batch_size * completed.gradient_accumulation_steps == 128
    assert completed.per_device_eval_batch_size == 256
    assert completed.max_steps == 1_000


def test_what_is_given_stays(tmp_path):
    given = {
        "learning_rate": 0.5,
        "weight_decay": 0.0,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 7,
        "max_steps": 11,
    }
    completed = complete_arguments(RecommendationTrainingArguments(str(tmp_path), **given), CONFIG, LENGTHS)
    assert {name: getattr(completed, name) for name in given} == given


def test_a_saved_model_is_trained_further_in_fewer_steps_at_a_lower_rate(tmp_path):
    names = ("max_steps", "learning_rate", "warmup_steps", "eval_steps", "save_steps", "logging_steps", "weight_decay")
    args, recipe = RecommendationTrainingArguments(str(tmp_path)), choose_recipe(True, 50)
    new, few, many = (
        [getattr(completed, name) for name in names]
        for completed in (
            complete_arguments(args, CONFIG, LENGTHS),
            fine_tuning_arguments(args, CONFIG, LENGTHS),
            fine_tuning_arguments(args, CONFIG, LENGTHS * 50),
        )
    )
    assert new == [1_000, recipe.learning_rate, 100, 0.04, 0.04, 0.04, recipe.weight_decay]
    assert few == [200, recipe.learning_rate / 2, 0.1, 0.2, 0.2, 0.2, recipe.weight_decay]
    assert many == [800, *few[1:]]  # a tenth of 400,000 interactions / 50
    given = dict(zip(names, [33, 0.5, 7, 0.04, 0.08, 0.5, 0.0], strict=True))
    completed = fine_tuning_arguments(RecommendationTrainingArguments(str(tmp_path), **given), CONFIG, LENGTHS)
    assert {name: getattr(completed, name) for name in names} == given
    by_epoch = RecommendationTrainingArguments(str(tmp_path), num_train_epochs=2)
    assert fine_tuning_arguments(by_epoch, CONFIG, LENGTHS).max_steps == -1


def test_epochs_take_the_place_of_steps(tmp_path):
    args = RecommendationTrainingArguments(str(tmp_path), num_train_epochs=2)
    assert (args.max_steps, args.num_train_epochs) == (-1, 2)
    assert complete_arguments(args, CONFIG, LENGTHS).max_steps == -1
    both = RecommendationTrainingArguments(str(tmp_path), num_train_epochs=2, max_steps=5)
    assert both.max_steps == 5


def test_the_parts_of_a_step_share_its_histories(tmp_path):
    for parts, size in ((1, 128), (4, 32), (1_000, 1)):
        args = RecommendationTrainingArguments(str(tmp_path), gradient_accumulation_steps=parts)
        assert complete_arguments(args, CONFIG, LENGTHS).per_device_train_batch_size == size


def test_the_best_model_has_the_lowest_loss_and_error_and_the_highest_of_other_metrics(tmp_path):
    better = {"ndcg@10": True, "eval_hr@5": True, "coverage@10": True, "auc": True}
    better |= {"loss": False, "eval_rmse": False, "log_loss": False, "mae": False, "gini@10": False}
    for metric, greater in better.items():
        args = RecommendationTrainingArguments(str(tmp_path), metric_for_best_model=metric)
        assert args.greater_is_better is greater, metric
    args = RecommendationTrainingArguments(str(tmp_path), metric_for_best_model="rmse", greater_is_better=True)
    assert args.greater_is_better is True


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_a_push_before_the_end_is_refused(tmp_path, strategy):
    with pytest.raises(ValueError, match=rf"hub_strategy must be 'end', got '{strategy}'.*hub_token"):
        RecommendationTrainingArguments(str(tmp_path), push_to_hub=True, hub_strategy=strategy)
    assert RecommendationTrainingArguments(str(tmp_path), hub_strategy=strategy)  # nothing is pushed


def test_without_validation_there_is_no_best_model(tmp_path):
    assert not RecommendationTrainingArguments(str(tmp_path), eval_strategy="no").load_best_model_at_end
    assert RecommendationTrainingArguments(str(tmp_path)).load_best_model_at_end
