"""What leans on unstable parts of Transformers and datasets, outside of the model's own folder.

Each part has a test in `tests/test_compat.py`, which the scheduled run with the newest releases executes too.
"""

from torch.utils.data import Sampler
from transformers import Trainer
from transformers.exporters import (
    ExportedModel,
    OnnxConfig,
    OnnxExporter,
    OnnxRuntimeDynamicConfig,
    OnnxRuntimeQuantizer,
)
from transformers.trainer_pt_utils import LengthGroupedSampler


def arrow_column(column):
    """The Arrow column behind a column of a `datasets.Dataset`, or what was given if it is none.

    `datasets` has no public way to read a column without a Python object for each value.
    """
    if hasattr(column, "column_name"):
        return column.source.with_format("arrow")[:][column.column_name]
    return column


def length_grouping(sampler: Sampler | None) -> tuple[int, list[int]] | None:
    """Histories of a step and the length of each history, of the sampler that Transformers made; else None."""
    if not isinstance(sampler, LengthGroupedSampler):
        return None
    return sampler.batch_size, sampler.lengths[:]


def last_log(trainer_or_state) -> dict:
    """The newest entry of the log, which callbacks may add to."""
    state = trainer_or_state.state if isinstance(trainer_or_state, Trainer) else trainer_or_state
    return state.log_history[-1]


__all__ = [
    "ExportedModel",
    "OnnxConfig",
    "OnnxExporter",
    "OnnxRuntimeDynamicConfig",
    "OnnxRuntimeQuantizer",
    "arrow_column",
    "last_log",
    "length_grouping",
]
