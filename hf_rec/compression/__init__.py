"""Compression: smaller models from trained ones."""

from .compress import compress
from .prune import Importance, measure_importance, prune
from .quantize import quantize_items, quantize_layers

__all__ = ["Importance", "compress", "measure_importance", "prune", "quantize_items", "quantize_layers"]
