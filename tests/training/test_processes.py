"""Several processes on this machine, with gloo, as `torchrun` and `accelerate launch` start them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from conftest import random_histories, small_model, without_dropout
from launching import ACCELERATE, SCRIPT, TORCHRUN, finish, losses, read, same_weights, start, train, weights
from runs import chains_log
from safetensors.torch import load_file, save_file

from hf_rec.training.optimization import SparseRowAdamW, sparse_rows

CURVE = {"max_steps": 50, "logging_steps": 1, "eval_steps": 25, "save_strategy": "no", "load_best_model_at_end": False}
CURVE |= {"dataloader_drop_last": True, "per_device_eval_batch_size": 32, "warmup_steps": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_decoder", "options"),
    [
        (True, {"features": True}),
        (False, {"features": True}),
        (True, {"trainer": "stock"}),
        (False, {"trainer": "stock", "config": {"use_repeat_bias": True}}),
    ],
    ids=["causal", "masked", "causal, stock Trainer", "masked, stock Trainer"],
)
def test_two_processes_have_the_loss_curve_and_the_metrics_of_one(tmp_path, is_decoder, options):
    """Fifty steps of 32 histories in float64 without noise, over eight epochs."""
    options = {"is_decoder": is_decoder, "gradient_accumulation_steps": 2, **options, **CURVE}
    one = train(tmp_path / "one", 1, per_device_train_batch_size=16, **options)
    two = train(tmp_path / "two", 2, per_device_train_batch_size=8, **options)
    assert len(losses(one)) == len(losses(two)) == 50
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert losses(one)[-1] < 0.9 * losses(one)[0]
    validations = [[entry for entry in read(folder, "log") if "eval_ndcg@10" in entry] for folder in (one, two)]
    assert len(validations[0]) == len(validations[1]) == 2
    for first, second in [*zip(*validations, strict=True), (read(one, "metrics"), read(two, "metrics"))]:
        for name, value in first.items():
            if re.search("ndcg|hr@|mrr|coverage|gini|overlap|novelty|popularity|long_tail|offset", name):
                assert second[name] == pytest.approx(value, abs=1e-9), name
    assert same_weights(weights(two), weights(two, 1))
    # Each process ranks half of the histories; the last batch is filled up.
    targets = read(one, "metrics")["targets"]
    ranked = [read(two, "metrics", process)["ranked_here"] for process in (0, 1)]
    assert read(one, "metrics")["ranked_here"] == targets
    assert ranked[0] == ranked[1] and targets <= sum(ranked) < targets + 2 * 32


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["softmax", "sampled_softmax"])
def test_sharded_weights_learn_what_whole_ones_learn(tmp_path, loss_type):
    """FSDP2 with the stock Trainer: each process holds half of the item table, of its gradient and of its moments."""
    options = {"is_decoder": True, "trainer": "stock", "per_device_train_batch_size": 8, **CURVE}
    options |= {"config": {"loss_type": loss_type, "num_negatives": 20}, "gradient_accumulation_steps": 2}
    whole, sharded = (train(tmp_path / f"{part}", 2, sharded=part, **options) for part in (False, True))
    assert losses(sharded) == pytest.approx(losses(whole), abs=1e-4)
    assert read(sharded, "metrics")["ndcg@10"] == pytest.approx(read(whole, "metrics")["ndcg@10"], abs=1e-9)
    rows = [read(sharded, "metrics", process)["rows_here"] for process in (0, 1)]
    assert sum(rows) == read(whole, "metrics")["rows_here"] and max(rows) - min(rows) <= 1
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(sharded)[name], expected, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def log_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("logs") / "log.parquet"
    pyarrow.parquet.write_table(chains_log(), file)
    return file


TINY = ["--max_length", 8, "--hidden_size", 16, "--intermediate_size", 32, "--use_cpu", "--disable_tqdm", "true"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the process of a rank in /proc")
def test_a_run_whose_second_process_is_killed_in_a_later_epoch_resumes_to_the_same_weights(log_file, tmp_path):
    """Five steps in an epoch, a checkpoint after every third; masks, windows and dropout are drawn."""
    options = ["-m", "hf_rec.cli.main", "train", "--train_file", log_file, "--max_steps", 60, *TINY]
    options += ["--per_device_train_batch_size", 16, "--gradient_accumulation_steps", 2, "--logging_steps", 1]
    options += ["--eval_steps", 3, "--save_steps", 3, "--early_stopping_patience", 100, "--output_dir"]
    finish([*TORCHRUN, 2, *options, tmp_path / "whole"])
    killed = tmp_path / "killed"
    launcher = start([*TORCHRUN, 2, *options, killed])
    while not any(step_of(state.parent) >= 12 for state in killed.glob("checkpoint-*/trainer_state.json")):
        assert launcher.poll() is None, launcher.communicate()[1][-5000:]
        time.sleep(0.01)
    os.kill(process_of(launcher, rank=1), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 1
    assert "Signal 9 (SIGKILL)" in errors and re.search(r"rank\s*: 1", errors)
    assert not (killed / "model.safetensors").exists()
    process = start([*TORCHRUN, 2, *options, killed])
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-5000:]
    assert 12 <= int(re.search(r"resuming from \S*checkpoint-(\d+)", errors)[1]) < 60
    assert printed.count("Test metrics, full ranking") == 1
    assert same_weights(*(load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")))
    histories = [json.loads((tmp_path / name / "trainer_state.json").read_text()) for name in ("whole", "killed")]
    curves = [[entry["loss"] for entry in history["log_history"] if "loss" in entry] for history in histories]
    assert len(curves[0]) == 60 and curves[0] == curves[1]


@pytest.mark.slow
def test_the_stock_trainer_resumes_in_a_later_epoch_to_the_same_weights(tmp_path):
    """Two processes without random draws, six steps in an epoch, from a checkpoint within the third."""
    options = {"is_decoder": True, "trainer": "stock", "per_device_train_batch_size": 16, **CURVE, "max_steps": 24}
    options |= {"save_strategy": "steps", "save_steps": 14, "save_total_limit": None, "eval_steps": 12}
    whole = train(tmp_path / "whole", 2, **options)
    checkpoint = str(whole / "run" / "checkpoint-14")
    resumed = train(tmp_path / "resumed", 2, resume_from_checkpoint=checkpoint, **options)
    assert same_weights(weights(whole), weights(resumed))
    assert losses(whole) == losses(resumed)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def process_of(launcher: subprocess.Popen, rank: int) -> int:
    """The id of the process that a launcher started for a rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return next(int(pid) for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())


@pytest.mark.slow
def test_accelerate_launch_starts_several_processes_without_gpus(log_file, tmp_path):
    launch = [*ACCELERATE, "--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend"]
    train = ["-m", "hf_rec.cli.main", "train", "--train_file", log_file, "--max_steps", 6, *TINY]
    printed = finish([*launch, "no", *train, "--output_dir", tmp_path / "command"])
    assert printed.count("Test metrics, full ranking") == 1
    identity = json.loads((tmp_path / "command" / "run.json").read_text())
    assert identity["arguments"]["processes"] == 2
    own = [SCRIPT, "--train_file", log_file, "--max_steps", 6, "--use_cpu", "--disable_tqdm", "true"]
    printed = finish([*launch, "no", *own, "--output_dir", tmp_path / "script"])
    assert len(re.findall(r'"test_ndcg@10"', printed)) == 1
    assert (tmp_path / "script" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_benchmark_compares_processes_with_threads(log_file):
    few = ["--steps", 3, "--warmup_steps", 1, "--runs", 1, "--max_length", 8, "--layouts", "1x1", "2x1"]
    printed = finish([sys.executable, SCRIPT.with_name("benchmark_processes.py"), "--train_file", log_file, *few])
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if re.match(r"\| \d", line)]
    assert [row[:2] for row in rows] == [["1", "1"], ["2", "1"]]
    trained, evaluated = ([float(row[column].replace(",", "")) for row in rows] for column in (2, 4))
    assert float(rows[1][3]) == pytest.approx(trained[1] / trained[0], abs=0.02)
    assert float(rows[1][5]) == pytest.approx(evaluated[1] / evaluated[0], abs=0.02)


@pytest.mark.slow
def test_accelerate_launch_cpu_which_starts_one_process_is_an_error_that_names_the_way(log_file, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    train = ["-m", "hf_rec.cli.main", "train", "--train_file", log_file, *TINY, "--output_dir", tmp_path / "model"]
    process = start([*launch, *train])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "`accelerate launch --cpu` starts one process" in errors and "--multi_gpu" in errors
    assert not (tmp_path / "model").exists()


def take_steps(rank: int, processes: int, folder: str, is_decoder: bool, tied: bool) -> None:
    """Four steps of a sampled loss, each of two micro-batches, with the rows of one of the processes."""
    if processes > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)
    options = {"loss_type": "sampled_softmax", "num_negatives": 5, "tie_word_embeddings": tied}
    model = without_dropout(small_model(60, is_decoder, **options).double()).train()
    with torch.no_grad():  # what the first process has, all have
        model.items.id_embeddings.weight += rank
    with sparse_rows(model):
        learner = torch.nn.parallel.DistributedDataParallel(model) if processes > 1 else model
        optimizer = SparseRowAdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        for step in range(4):
            for part in range(2):
                generator = torch.Generator().manual_seed(10 * step + part)
                histories = random_histories(generator, 8, 6, vocab_size=60 if step else 30)
                torch.manual_seed(step)  # all processes draw the same negatives
                wait = nullcontext() if processes == 1 or part else learner.no_sync()
                with wait:
                    loss = learner(histories[rank::processes], labels=histories[rank::processes]).loss
                    loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not model.items.sparse_gradients
    save_file({name: weight.data for name, weight in model.named_parameters()}, f"{folder}/{processes}-{rank}")


@pytest.mark.slow
@pytest.mark.parametrize(("is_decoder", "tied"), [(True, True), (False, False)])
def test_rows_are_updated_in_two_processes_as_in_one(tmp_path, is_decoder, tied):
    for processes in (1, 2):
        torch.multiprocessing.spawn(take_steps, (processes, str(tmp_path), is_decoder, tied), nprocs=processes)
    one, *two = (load_file(tmp_path / name) for name in ("1-0", "2-0", "2-1"))
    assert same_weights(*two)
    for name, expected in one.items():
        torch.testing.assert_close(two[0][name], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_training_in_two_processes_updates_only_the_rows_of_its_steps(tmp_path):
    options = {"is_decoder": True, "config": {"loss_type": "gbce", "num_negatives": 20}, "large": 50, **CURVE}
    options |= {
        "noise": True,
        "eval_strategy": "no",
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "warmup_steps": 0,
    }
    step, start = (train(tmp_path / str(rate), 2, learning_rate=rate, **options) for rate in (0.01, 0.0))
    assert same_weights(weights(step), weights(step, 1))
    table = "model.embeddings.items.id_embeddings.weight"
    changed = (weights(step)[table] != weights(start)[table]).any(1)
    assert 40 < changed.sum() < 0.9 * len(changed)
