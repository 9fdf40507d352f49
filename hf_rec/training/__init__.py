"""Recipes, the Trainer, and what a training run reports."""

from .arguments import RecommendationTrainingArguments
from .classify import evaluate_classifier, fit_classifier, train_classifier
from .create import create_model, load_model
from .distill import Distillation
from .fine_tune import fine_tune
from .fit import fit, make_trainer
from .growth import add_items, remove_items, replace_items
from .hooks import Hooks
from .new_items import choose_new_item_offset
from .run import evaluate_recommender, train_recommender
from .trainer import RecommendationTrainer
from .update import Update, newest_splits, update_recommender

__all__ = [
    "Distillation",
    "Hooks",
    "RecommendationTrainer",
    "RecommendationTrainingArguments",
    "Update",
    "add_items",
    "choose_new_item_offset",
    "create_model",
    "evaluate_classifier",
    "evaluate_recommender",
    "fine_tune",
    "fit",
    "fit_classifier",
    "load_model",
    "make_trainer",
    "newest_splits",
    "remove_items",
    "replace_items",
    "train_classifier",
    "train_recommender",
    "update_recommender",
]
