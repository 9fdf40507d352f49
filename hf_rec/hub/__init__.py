"""Model cards, saved folders, and pushing them to the Hugging Face Hub."""

from .card import model_card, results_table
from .classifier_card import CLASSIFIER
from .folder import save_recommender
from .push import push_recommender

__all__ = ["CLASSIFIER", "model_card", "push_recommender", "results_table", "save_recommender"]
