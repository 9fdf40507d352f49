"""Recipes, the Trainer, and what a training run reports."""
