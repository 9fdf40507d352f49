"""Serving: vectors and similar items, and ranking outside of PyTorch."""

from .onnx import OnnxRecommendationPipeline, export_recommender
from .vectors import encode, item_vectors, similar_items

__all__ = ["OnnxRecommendationPipeline", "encode", "export_recommender", "item_vectors", "similar_items"]
