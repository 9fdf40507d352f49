import numpy as np
import pytest
from datasets import Dataset
from runs import shop_splits

from hf_rec import Bert4RecConfig
from hf_rec.training.arguments import RecommendationTrainingArguments, complete_arguments, count_targets
from hf_rec.training.create import create_model
from hf_rec.training.recipes import (
    LARGE_CATALOGUE,
    RECIPES,
    SHORT,
    choose_batch_size,
    choose_max_length,
    choose_recipe,
    recipe_config,
)


@pytest.mark.parametrize("is_decoder", [True, False])
@pytest.mark.parametrize("max_length", [SHORT, SHORT + 1])
def test_a_model_follows_the_recipe_of_its_objective_and_length(is_decoder, max_length):
    name = f"{'causal' if is_decoder else 'masked'}-{'short' if max_length == SHORT else 'long'}"
    recipe = choose_recipe(is_decoder, max_length)
    assert recipe == RECIPES[name]
    model, _ = create_model(shop_splits(), {"is_decoder": is_decoder}, max_length)
    assert model.config.is_decoder == is_decoder
    assert model.config.hidden_size == recipe.hidden_size
    assert model.config.hidden_dropout_prob == recipe.hidden_dropout_prob
    assert model.config.use_repeat_bias == recipe.use_repeat_bias
    assert model.config.moving_average == recipe.moving_average
    assert model.config.max_position_embeddings == max_length


def test_each_recipe_is_chosen_by_something():
    chosen = {choose_recipe(is_decoder, length) for is_decoder in (True, False) for length in (SHORT, SHORT + 1)}
    assert chosen == set(RECIPES.values())


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([49] * 9 + [500], 50), ([50] * 2 + [49] * 8, 100), ([99] * 9 + [500], 100), ([100] * 2 + [5] * 8, 200)],
)
def test_nine_in_ten_histories_fit_with_the_item_to_predict(lengths, expected):
    assert choose_max_length(np.array(lengths)) == expected


def test_a_step_has_about_as_many_items_whatever_the_lengths():
    assert [choose_batch_size([length] * 9, 200) for length in (1, 32, 64, 128, 500)] == [128, 128, 64, 32, 32]
    assert choose_batch_size([500], max_length=64) == 64  # what the input does not hold does not count


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("max_length", [SHORT, SHORT + 1])
def test_a_repeat_bias_is_for_long_histories_and_for_seen_items(exclude_seen, max_length):
    config = recipe_config(1_000, max_length, is_decoder=True, exclude_seen=exclude_seen)
    assert config["use_repeat_bias"] == (max_length > SHORT or not exclude_seen)
    assert not recipe_config(1_000, max_length, exclude_seen=exclude_seen, use_repeat_bias=False)["use_repeat_bias"]
    assert not recipe_config(1_000, max_length, exclude_seen=exclude_seen, loss_type="gbce")["use_repeat_bias"]


def test_a_large_catalogue_has_sampled_negatives_and_no_repeat_bias():
    large = recipe_config(LARGE_CATALOGUE, 200)
    assert (large["loss_type"], large["use_repeat_bias"]) == ("sampled_softmax", False)
    assert recipe_config(LARGE_CATALOGUE - 1, 200)["loss_type"] == "softmax"
    assert recipe_config(LARGE_CATALOGUE, 200, loss_type="softmax")["loss_type"] == "softmax"


def test_given_fields_stay():
    given = {"hidden_size": 8, "hidden_dropout_prob": 0.0, "num_attention_heads": 1, "moving_average": 0.0}
    config = recipe_config(1_000, 50, is_decoder=True, **given)
    assert {name: config[name] for name in given} == given


def test_a_causal_model_has_as_many_targets_as_baskets(tmp_path):
    train = Dataset.from_dict({"length": [5, 1], "basket_ids": [[7, 7, 2, 7, 7], [0]]})
    causal, masked = (Bert4RecConfig(vocab_size=9, is_decoder=decoder) for decoder in (True, False))
    assert count_targets(causal, train) == 4
    assert count_targets(masked, train) == count_targets(causal, train.remove_columns("basket_ids")) == 6
    args = RecommendationTrainingArguments(str(tmp_path))
    many = complete_arguments(args, causal, [10] * 100_000, 500_000).max_steps
    assert many == 500_000 // choose_recipe(True, causal.max_position_embeddings).interactions_per_step


def test_steps_follow_the_interactions(tmp_path):
    model, _ = create_model(shop_splits(), {"is_decoder": True}, 50)
    args = RecommendationTrainingArguments(str(tmp_path))
    few, many = ([10] * histories for histories in (100, 100_000))
    assert complete_arguments(args, model.config, few).max_steps == 1_000
    assert (
        complete_arguments(args, model.config, many).max_steps
        == 1_000_000 // choose_recipe(True, 50).interactions_per_step
    )
