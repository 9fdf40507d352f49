"""Personalised recommendation with Transformers: BERT4Rec as a plugin for the Hugging Face libraries."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY

from .collator import RecommendationCollator
from .configuration_bert4rec import Bert4RecConfig
from .metrics import RankingMetrics
from .modeling_bert4rec import Bert4RecForCausalLM, Bert4RecForMaskedLM, Bert4RecModel, Bert4RecPreTrainedModel
from .pipeline_bert4rec import RecommendationPipeline
from .tokenization_items import ItemTokenizer

__version__ = "0.1.0"

# Open saved models with the classes of this package, without `trust_remote_code`.
AutoConfig.register("bert4rec", Bert4RecConfig)
AutoModel.register(Bert4RecConfig, Bert4RecModel)
AutoModelForMaskedLM.register(Bert4RecConfig, Bert4RecForMaskedLM)
AutoModelForCausalLM.register(Bert4RecConfig, Bert4RecForCausalLM)
AutoTokenizer.register(Bert4RecConfig, tokenizer_class=ItemTokenizer)
PIPELINE_REGISTRY.register_pipeline(
    "recommendation",
    pipeline_class=RecommendationPipeline,
    pt_model=(AutoModelForMaskedLM, AutoModelForCausalLM),
    type="text",
)
Bert4RecConfig.ignore_custom_pipelines = True

# Copy the code of a model beside its weights, for readers without this package.
Bert4RecConfig.register_for_auto_class()
Bert4RecModel.register_for_auto_class("AutoModel")
Bert4RecForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
Bert4RecForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = [
    "Bert4RecConfig",
    "Bert4RecForCausalLM",
    "Bert4RecForMaskedLM",
    "Bert4RecModel",
    "Bert4RecPreTrainedModel",
    "ItemTokenizer",
    "RankingMetrics",
    "RecommendationCollator",
    "RecommendationPipeline",
]
