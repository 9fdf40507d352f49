"""From a log of any size to a folder of sequences, with Arrow, DuckDB or Spark."""

from .prepare import prepare_sequences

__all__ = ["prepare_sequences"]
