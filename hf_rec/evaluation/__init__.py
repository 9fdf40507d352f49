"""Metrics of rankings and labels, baselines, and the evaluation of a model beside them."""

from .baselines import BASELINES, evaluate_scorer
from .evaluate import evaluate, evaluate_baselines, ranking_metrics
from .label_baselines import evaluate_label_baselines
from .label_metrics import label_metrics
from .metrics import RankingMetrics
from .rules import add_rule_columns, compile_rules
from .variety import VarietyMetrics

__all__ = [
    "BASELINES",
    "RankingMetrics",
    "VarietyMetrics",
    "add_rule_columns",
    "compile_rules",
    "evaluate",
    "evaluate_baselines",
    "evaluate_label_baselines",
    "evaluate_scorer",
    "label_metrics",
    "ranking_metrics",
]
