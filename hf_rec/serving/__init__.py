"""Serving: vectors and similar items, and ranking outside of PyTorch."""

from .onnx import OnnxRecommendationPipeline, OpenVinoRecommendationPipeline, export_recommender, open_export
from .vectors import encode, item_vectors, similar_items

__all__ = [
    "OnnxRecommendationPipeline",
    "OpenVinoRecommendationPipeline",
    "encode",
    "export_recommender",
    "item_vectors",
    "open_export",
    "similar_items",
]
