"""Serving: vectors, similar items and indexes of them, and ranking outside of PyTorch."""

from .index import ItemIndex, item_dataset
from .onnx import OnnxRecommendationPipeline, OpenVinoRecommendationPipeline, export_recommender, open_export
from .retrieval import IndexedRecommendationPipeline
from .vectors import co_occurrence, encode, item_vectors, similar_items, users_like

__all__ = [
    "IndexedRecommendationPipeline",
    "ItemIndex",
    "OnnxRecommendationPipeline",
    "OpenVinoRecommendationPipeline",
    "co_occurrence",
    "encode",
    "export_recommender",
    "item_dataset",
    "item_vectors",
    "open_export",
    "similar_items",
    "users_like",
]
