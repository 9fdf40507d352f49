"""What a training run is made of, which an experiment may replace."""

from collections.abc import Callable
from typing import NamedTuple

from transformers import PreTrainedModel, Trainer

from ..data.collator import RecommendationCollator
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.modeling_bert4rec import model_class
from .trainer import RecommendationTrainer


def build_model(config: Bert4RecConfig) -> PreTrainedModel:
    """A new model of this configuration."""
    return model_class(config)(config)


class Hooks(NamedTuple):
    """Parts of a run in place of ours.

    Attributes:
        build_model: Makes a new model of a configuration. It may replace modules of ours; `model.init_weights()` then
            gives the new ones their first weights.
        collator: The class of the collator, called with the configuration and the options of a
            [`RecommendationCollator`].
        trainer: The class of the Trainer, unless there are teachers.

    Example:
        >>> class Unmasked(RecommendationCollator): ...
        >>> Hooks(collator=Unmasked).trainer.__name__
        'RecommendationTrainer'
    """

    build_model: Callable[[Bert4RecConfig], PreTrainedModel] = build_model
    collator: type[RecommendationCollator] = RecommendationCollator
    trainer: type[Trainer] = RecommendationTrainer


OURS = Hooks()


__all__ = ["Hooks"]
