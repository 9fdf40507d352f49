"""Personalised recommendation with Transformers: BERT4Rec as a plugin for the Hugging Face libraries."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .data.collator import RecommendationCollator
from .data.tokenization_items import ItemTokenizer
from .evaluation.metrics import RankingMetrics
from .model.configuration_bert4rec import Bert4RecConfig
from .model.features import Feature
from .model.modeling_bert4rec import (
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecForSequenceClassification,
    Bert4RecModel,
    Bert4RecPreTrainedModel,
)
from .model.pipeline_behavior import BehaviorPredictionPipeline
from .model.pipeline_bert4rec import RecommendationPipeline

__version__ = "0.1.0"


def register() -> None:
    """Make the Auto classes and `pipeline` of Transformers open saved models, without `trust_remote_code`."""
    AutoConfig.register("bert4rec", Bert4RecConfig)
    AutoModel.register(Bert4RecConfig, Bert4RecModel)
    AutoModelForMaskedLM.register(Bert4RecConfig, Bert4RecForMaskedLM)
    AutoModelForCausalLM.register(Bert4RecConfig, Bert4RecForCausalLM)
    AutoModelForSequenceClassification.register(Bert4RecConfig, Bert4RecForSequenceClassification)
    AutoTokenizer.register(Bert4RecConfig, tokenizer_class=ItemTokenizer)
    PIPELINE_REGISTRY.register_pipeline(
        "recommendation",
        pipeline_class=RecommendationPipeline,
        pt_model=(AutoModelForMaskedLM, AutoModelForCausalLM),
        type="text",
    )
    PIPELINE_REGISTRY.register_pipeline(
        "behavior-prediction",
        pipeline_class=BehaviorPredictionPipeline,
        pt_model=AutoModelForSequenceClassification,
        type="text",
    )
    # Saving a model copies its code beside the weights, for readers without this package.
    Bert4RecConfig.register_for_auto_class()
    Bert4RecModel.register_for_auto_class("AutoModel")
    Bert4RecForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
    Bert4RecForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    Bert4RecForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")


register()

__all__ = [
    "BehaviorPredictionPipeline",
    "Bert4RecConfig",
    "Bert4RecForCausalLM",
    "Bert4RecForMaskedLM",
    "Bert4RecForSequenceClassification",
    "Bert4RecModel",
    "Bert4RecPreTrainedModel",
    "Feature",
    "ItemTokenizer",
    "RankingMetrics",
    "RecommendationCollator",
    "RecommendationPipeline",
]
