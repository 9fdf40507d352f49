"""Explanation: why an item is recommended, in numbers, words and pictures. Needs the extra `explanation`."""

from .attention import attention_weights, rollout
from .counterfactual import Counterfactual, counterfactual
from .explain import METHODS, EventAttribution, Explanation, explain, explain_all
from .faithfulness import curves, normalised_area
from .game import HistoryGame
from .pictures import Picture, attention_picture, flow_picture, item_map, map_picture
from .report import report

__all__ = [
    "METHODS",
    "Counterfactual",
    "EventAttribution",
    "Explanation",
    "HistoryGame",
    "Picture",
    "attention_picture",
    "attention_weights",
    "counterfactual",
    "curves",
    "explain",
    "explain_all",
    "flow_picture",
    "item_map",
    "map_picture",
    "normalised_area",
    "report",
    "rollout",
]
