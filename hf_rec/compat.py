"""What leans on unstable parts of Transformers and datasets, outside of the model's own folder.

Each part has a test in `tests/test_compat.py`, which the scheduled run with the newest releases executes too. Some of
these modules take a second to load, so the functions import them.
"""

import sys
from collections.abc import Sequence

from torch.utils.data import Sampler


def arrow_column(column):
    """The Arrow column behind a column of a `datasets.Dataset`, or what was given if it is none.

    `datasets` has no public way to read a column without a Python object for each value.
    """
    if hasattr(column, "column_name"):
        return column.source.with_format("arrow")[:][column.column_name]
    return column


def length_grouping(sampler: Sampler | None) -> tuple[int, Sequence[int]] | None:
    """Histories of a step and the length of each history, of the sampler that Transformers made; else None."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    if not isinstance(sampler, LengthGroupedSampler):
        return None
    return sampler.batch_size, sampler.lengths


def last_log(state) -> dict:
    """The newest entry of the log in a `TrainerState`, which callbacks may add to."""
    return state.log_history[-1]


def end_together() -> None:
    """Wait for the other processes of a training, after which this one can end at any moment.

    The destructor of a gloo group holds the lock of Python while it waits for the thread of the group, which may need
    that lock to let go of the last exchange: the process then never ends. The group therefore stays until the process
    is gone.
    """
    import ctypes

    from accelerate import PartialState
    from torch import distributed

    PartialState().wait_for_everyone()
    if distributed.is_available() and distributed.is_initialized():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(distributed.group.WORLD))


def exporters():
    """`transformers.exporters`, which Transformers declares experimental."""
    from transformers import exporters

    return exporters


def openvino_exporters():
    """[`exporters`], after which the converter of OpenVINO reports nothing to its makers.

    It does without the package that reports, and has no option to switch it off.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    return exporters()


__all__ = ["arrow_column", "end_together", "exporters", "last_log", "length_grouping", "openvino_exporters"]
