"""Training on folders of prepared sequences: the same run as in memory, resumed, and in two processes."""

import json
import subprocess
import sys

import datasets
import pytest
import torch
from runs import SIZES, arguments, cycles_log, shop_splits
from safetensors.torch import load_file
from shard_folders import write_prepared
from transformers import set_seed

from hf_rec.cli.main import main
from hf_rec.data import SequenceShards, TrainingShards, build_sequences, leave_one_out, tokenize_splits
from hf_rec.data.demo_log import shop_log
from hf_rec.training import create_model, evaluate_recommender, fit, train_recommender

MODEL = {"config": SIZES | {"is_decoder": True}, "max_length": 16, "request_columns": ["time_gap"]}
SMALL = ["--max_steps", "4", "--hidden_size", "16", "--max_length", "16", "--use_cpu", "--disable_tqdm", "true"]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Arrow files of `datasets` in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sequences = build_sequences(shop_log(num_users=60)[0])
    return write_prepared(tmp_path_factory.mktemp("shop") / "sequences", sequences, shards=3)


def train(folder, output_dir, shards=None, **options) -> dict:
    """Results and weights of a run on the sequences of a folder."""
    read = SequenceShards(folder)
    splits = leave_one_out(read.sample(0))
    args = arguments(output_dir, per_device_train_batch_size=16, gradient_accumulation_steps=2)
    results = train_recommender(splits, args, shards=shards, catalogue=read.items, **MODEL | options)
    return results[output_dir.name], load_file(output_dir / "model.safetensors")


def test_a_run_on_mapped_shards_is_that_of_the_same_sequences_in_memory(folder, tmp_path):
    shards = TrainingShards(SequenceShards(folder), 60)
    (mapped, weights), (whole, expected) = train(folder, tmp_path / "a", shards), train(folder, tmp_path / "b")
    times = {name: value for name, value in mapped.items() if "time" in name or "second" in name}
    assert len(times) < 5 and mapped == whole | times
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_a_stream_learns_what_sequences_in_memory_teach(tmp_path):
    """Users who buy three items in turn: the next one follows from the history."""
    sequences = build_sequences(cycles_log())
    folder = write_prepared(tmp_path / "sequences", sequences, shards=3, group=20)
    shards = SequenceShards(folder)
    splits = leave_one_out(shards.sample(0))
    model, tokenizer = create_model(splits, {"is_decoder": True, "hidden_size": 32, "exclude_seen": False}, 16)
    rows = TrainingShards(shards, 150, streaming=True).rows(tokenizer, [], step_size=32)
    tokenized = tokenize_splits(splits, tokenizer)
    args = arguments(tmp_path, num_train_epochs=12, learning_rate=1e-2, per_device_train_batch_size=32, warmup_steps=5)
    trainer = fit(model, tokenizer, tokenized, args, rows=rows)
    assert trainer.state.max_steps == 12 * 5  # 150 rows in steps of 32
    assert trainer.state.best_metric > 0.9


@pytest.mark.parametrize("steps", [[3, 6]])
def test_a_stream_that_is_resumed_ends_with_the_same_weights(folder, tmp_path, steps):
    """Steps of two micro-batches, four in an epoch, the last one smaller."""
    shards = SequenceShards(folder)
    splits = leave_one_out(shards.sample(0))
    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": 7, "save_steps": 1}
    options |= {"save_total_limit": None, "load_best_model_at_end": False, "eval_strategy": "no"}
    options |= {"save_strategy": "steps"}

    def end(name: str, checkpoint=None) -> dict[str, torch.Tensor]:
        set_seed(0)
        model, tokenizer = create_model(splits, **MODEL)
        tokenized = tokenize_splits(splits, tokenizer, model.config.features)
        training = TrainingShards(shards, 60, streaming=True, buffer_users=10)
        rows = training.rows(tokenizer, model.config.features, step_size=16)
        fit(model, tokenizer, tokenized, arguments(tmp_path / name, **options), checkpoint=checkpoint, rows=rows)
        return model.state_dict()

    whole = end("whole")
    for step in steps:  # within the first epoch and the second one
        resumed = end("resumed", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert all(torch.equal(resumed[name], weights) for name, weights in whole.items()), step


@pytest.mark.parametrize("options", [[], ["--streaming", "--sample_users", "30"]])
def test_the_command_reads_a_folder_and_states_the_sample(folder, tmp_path, capsys, options):
    main(["train", "--train_file", str(folder), "--output_dir", str(tmp_path / "model"), *SMALL, *options])
    assert "| model " in capsys.readouterr().out
    card = (tmp_path / "model" / "README.md").read_text()
    said = "30 test users among 30 of 60 users, drawn at random" if options else "all 60 test users"
    assert said in card and "60 users" in card
    identity = json.loads((tmp_path / "model" / "run.json").read_text())["shards"]
    assert identity["streaming"] == bool(options) and identity["sampled"] == (30 if options else 60)
    main(["evaluate", "--model_name_or_path", str(tmp_path / "model"), "--train_file", str(folder)])
    results = json.loads((tmp_path / "model" / "all_results.json").read_text())
    if not options:
        found = evaluate_recommender(str(tmp_path / "model"), leave_one_out(SequenceShards(folder).sample(0)))
        assert found["model"]["ndcg@10"] == pytest.approx(results["test_ndcg@10"], abs=1e-6)
        assert f"{results['test_ndcg@10']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--filter", "timestamp > 3"], ["filter", "hf-rec prepare"]),
        (["--min_item_count", "5"], ["min_item_count", "hf-rec prepare"]),
        (["--hold_out_items", "0.1"], ["--hold_out_items"]),
        (["--event_columns", "rating"], ["'rating'", "hf-rec prepare"]),
        (["--streaming", "--dataloader_num_workers", "2"], ["--dataloader_num_workers"]),
    ],
)
def test_options_that_the_folder_does_not_have_are_refused(folder, tmp_path, options, named):
    with pytest.raises(SystemExit) as exit:
        main(["train", "--train_file", str(folder), "--output_dir", str(tmp_path / "model"), *SMALL, *options])
    assert all(word in exit.value.code for word in named), exit.value.code


def test_options_of_a_folder_are_refused_for_a_log(tmp_path):
    splits = shop_splits()
    splits["train"].to_parquet(tmp_path / "log.parquet")
    for option, said in (
        (["--streaming"], "--streaming reads a folder"),
        (["--sample_users", "5"], "read as a whole"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(["train", "--train_file", str(tmp_path / "log.parquet"), "--output_dir", "x", *option, *SMALL])


@pytest.mark.slow
@pytest.mark.parametrize("shards", [2, 3])
def test_two_processes_read_a_stream(tmp_path, shards):
    """Row groups of their own, or every other row."""
    sequences = build_sequences(cycles_log())
    folder = write_prepared(tmp_path / "sequences", sequences, shards=shards, group=1000)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["-m", "hf_rec.cli.train", "--train_file", folder, "--output_dir", tmp_path / "model", "--use_cpu"]
    command += ["--streaming", "--include_seen", "--max_length", 16, "--hidden_size", 32, "--learning_rate", 0.01]
    command += ["--num_train_epochs", 12, "--per_device_train_batch_size", 16, "--gradient_accumulation_steps", 1]
    command += ["--warmup_steps", 5, "--disable_tqdm", "true"]
    done = subprocess.run([*map(str, [*launch, *command])], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "model" / "all_results.json").read_text())
    assert results["test_ndcg@10"] > 0.9
