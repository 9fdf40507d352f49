"""Serving outside of PyTorch."""
