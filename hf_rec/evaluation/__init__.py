"""Ranking metrics, baselines, and the evaluation of a model beside them."""
