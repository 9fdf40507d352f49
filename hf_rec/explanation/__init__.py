"""Explanation: why an item is recommended, in numbers, words and pictures. Needs the extra `explanation`."""

from .attention import attention_weights, rollout
from .counterfactual import Counterfactual, counterfactual
from .explain import METHODS, EventAttribution, Explanation, explain, explain_all
from .game import HistoryGame

__all__ = [
    "METHODS",
    "Counterfactual",
    "EventAttribution",
    "Explanation",
    "HistoryGame",
    "attention_weights",
    "counterfactual",
    "explain",
    "explain_all",
    "rollout",
]
