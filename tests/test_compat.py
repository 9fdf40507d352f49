"""The unstable parts of other libraries that the package leans on."""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import small_model
from datasets import Dataset
from torch.utils.data import RandomSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import TrainerState

from hf_rec import compat

ROWS = {"input_ids": [[3, 4], [5], [6, 7, 8], [9]], "length": [2, 1, 3, 1]}


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    """Transformers' own, with histories of similar length in a step."""
    args = TrainingArguments(
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        train_sampling_strategy="group_by_length",
        report_to="none",
    )
    return Trainer(small_model(23, is_decoder=True), args, train_dataset=Dataset.from_dict(ROWS))


def test_everything_in_the_module_has_a_test():
    assert sorted(compat.__all__) == [
        "arrow_column",
        "end_together",
        "exporters",
        "last_log",
        "length_grouping",
        "openvino_exporters",
    ]


@pytest.mark.parametrize(
    "dataset",
    [
        Dataset.from_dict({"other": [0, 1, 2], "ids": ["a", "b", "c"]}),
        Dataset.from_dict({"other": [0, 1, 2], "ids": ["c", "a", "b"]}).select([1, 2, 0]),
        Dataset.from_dict({"other": [0, 1, 2], "ids": ["c", "a", "b"]}).sort("ids").with_format("numpy"),
    ],
    ids=["whole", "selected", "numpy format"],
)
def test_a_column_of_a_dataset_is_read_in_arrow(dataset):
    column = compat.arrow_column(dataset["ids"])
    assert isinstance(column, (pa.Array, pa.ChunkedArray))
    assert column.to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    "column", [["a", "b"], np.array([1, 2]), pa.array(["a"]), ("a",)], ids=["list", "numpy", "arrow", "tuple"]
)
def test_other_columns_stay_as_they_are(column):
    assert compat.arrow_column(column) is column


def test_a_part_of_a_column_stays_as_it_is():
    part = Dataset.from_dict({"ids": ["a", "b"]})["ids"][:1]
    assert compat.arrow_column(part) is part


def test_the_sampler_of_transformers_tells_its_step_and_the_lengths(trainer):
    sampler = trainer._get_train_sampler(trainer.train_dataset)
    batch_size, lengths = compat.length_grouping(sampler)
    assert batch_size == 2 * 3
    assert list(lengths) == ROWS["length"]


def test_other_samplers_have_no_grouping(trainer):
    trainer.args.train_sampling_strategy = "random"
    sampler = trainer._get_train_sampler(trainer.train_dataset)
    assert isinstance(sampler, RandomSampler)
    assert compat.length_grouping(sampler) is None
    assert compat.length_grouping(None) is None


def test_the_newest_entry_of_a_log_can_be_added_to(trainer):
    trainer.log({"loss": 1.0})
    trainer.log({"loss": 0.5})
    entry = compat.last_log(trainer.state)
    assert entry["loss"] == 0.5
    entry["seconds"] = 2.0
    assert trainer.state.log_history[-1]["seconds"] == 2.0
    assert compat.last_log(TrainerState(log_history=[{"loss": 3.0}])) == {"loss": 3.0}


def test_the_exporters_have_what_the_export_needs():
    exporters = compat.exporters()
    for name in ("ExportedModel", "OnnxConfig", "OnnxExporter", "OnnxRuntimeDynamicConfig", "OnnxRuntimeQuantizer"):
        assert isinstance(getattr(exporters, name), type)
    assert callable(exporters.ExportedModel.from_pretrained)
    assert callable(exporters.OnnxExporter.export)
    exporters.OnnxConfig(
        dynamic_shapes={"input_ids": {0: torch.export.Dim("batch")}},
        quantizer=exporters.OnnxRuntimeQuantizer(exporters.OnnxRuntimeDynamicConfig()),
    )


@pytest.mark.slow
def test_the_converter_of_openvino_does_without_its_reports():
    code = "from hf_rec.compat import openvino_exporters; openvino_exporters()\n"
    code += "from openvino.tools.ovc import utils; print(utils.tm.__name__)"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == "openvino.tools.ovc.telemetry_stub"


ENDS = """
import os, sys, tempfile
import torch
from hf_rec.compat import end_together

for number in range(30):
    store = os.path.join(tempfile.mkdtemp(), "store")
    child = os.fork()
    if not child:
        torch.distributed.init_process_group("gloo", f"file://{store}", rank=0, world_size=1)
        learner = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        learner(torch.ones(1, 2)).sum().backward()
        torch.distributed.barrier()
        end_together()
        torch.distributed.destroy_process_group()
        del learner
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_processes_that_end_together_end():
    """Without it one in eight waited for itself."""
    subprocess.run([sys.executable, "-c", ENDS], check=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"})
