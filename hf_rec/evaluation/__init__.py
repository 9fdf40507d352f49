"""Ranking metrics, baselines, and the evaluation of a model beside them."""

from .baselines import BASELINES, evaluate_scorer
from .evaluate import evaluate, evaluate_baselines, ranking_metrics
from .metrics import RankingMetrics

__all__ = ["BASELINES", "RankingMetrics", "evaluate", "evaluate_baselines", "evaluate_scorer", "ranking_metrics"]
