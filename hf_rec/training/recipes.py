"""Recipes: sizes of a new model and how it is trained, chosen by its objective and the lengths of the histories."""

from typing import Any, NamedTuple

import numpy as np

LARGE_CATALOGUE = 100_000  # tokens from which on a new model is trained with sampled negatives and sparse updates
SHORT = 50  # positions of a new model when nine in ten histories are short


class Recipe(NamedTuple):
    """Sizes of a new model, and how it is trained."""

    hidden_size: int
    hidden_dropout_prob: float
    learning_rate: float
    weight_decay: float
    interactions_per_step: int
    use_repeat_bias: bool = False
    moving_average: float = 0.0


# Tuned on validation, except masked-short, which is extrapolated from the others.
RECIPES = {
    "causal-short": Recipe(128, 0.3, 2e-3, 2.0, 50, moving_average=0.7),
    "causal-long": Recipe(64, 0.2, 2e-3, 1.0, 100, use_repeat_bias=True),
    "masked-short": Recipe(128, 0.3, 2e-3, 0.2, 25),
    "masked-long": Recipe(128, 0.1, 1e-3, 0.2, 80, use_repeat_bias=True),
}


def choose_recipe(is_decoder: bool, max_length: int) -> Recipe:
    """The recipe for an objective and an input of `max_length` positions.

    Example:
        >>> choose_recipe(is_decoder=True, max_length=50).weight_decay
        2.0
    """
    objective = "causal" if is_decoder else "masked"
    return RECIPES[f"{objective}-{'short' if max_length <= SHORT else 'long'}"]


def choose_max_length(lengths: np.ndarray) -> int:
    """Positions of a new model: 50 or 100 if nine in ten histories fit, else 200.

    Example:
        >>> choose_max_length(np.array([5, 8, 60])), choose_max_length(np.array([5] * 9 + [60]))
        (100, 50)
    """
    return next((length for length in (SHORT, 100) if np.mean(lengths < length) >= 0.9), 200)


def choose_batch_size(lengths: list[int], max_length: int) -> int:
    """Histories in a training step: the power of two, from 32 to 128, with about 4,096 items.

    Example:
        >>> choose_batch_size([100, 180], max_length=200), choose_batch_size([6, 9], max_length=200)
        (32, 128)
    """
    mean = np.minimum(lengths, max_length).mean()
    return int(2 ** np.clip(np.round(np.log2(4096 / mean)), 5, 7))


def recipe_config(vocab_size: int, max_length: int, **given: Any) -> dict[str, Any]:
    """Fields of a new model's configuration: the given ones, then those of the recipe.

    A large catalogue is trained with "sampled_softmax". A smaller one has a repeat bias if histories are long or their
    items are ranked, too.
    """
    recipe = choose_recipe(given.get("is_decoder", False), max_length)
    loss_type = given.get("loss_type", "softmax" if vocab_size < LARGE_CATALOGUE else "sampled_softmax")
    repeats = recipe.use_repeat_bias or not given.get("exclude_seen", True)
    defaults = {
        "vocab_size": vocab_size,
        "max_position_embeddings": max_length,
        "hidden_size": recipe.hidden_size,
        "hidden_dropout_prob": recipe.hidden_dropout_prob,
        "moving_average": recipe.moving_average,
        "loss_type": loss_type,
        "use_repeat_bias": loss_type == "softmax" and repeats,
    }
    return defaults | given


__all__ = ["RECIPES", "Recipe", "choose_batch_size", "choose_max_length", "choose_recipe", "recipe_config"]
