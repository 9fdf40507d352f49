"""A run in a folder: its identity, its checkpoints, what is damaged, and what is foreign."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from hf_rec.data import build_sequences, leave_one_out
from hf_rec.data.demo_log import shop_log
from hf_rec.training import RecommendationTrainingArguments, train_recommender
from hf_rec.training.checkpoints import RunFolder, check_processes, find_damage

SMALL = {"max_length": 16, "config": {"hidden_size": 16, "intermediate_size": 32, "is_decoder": True}}


@pytest.fixture(scope="module")
def splits():
    return leave_one_out(build_sequences(shop_log(num_users=60)[0]))


def arguments(folder: Path, **changes) -> RecommendationTrainingArguments:
    steps = {"max_steps": 6, "eval_steps": 2, "save_steps": 2, "save_total_limit": 10}
    return RecommendationTrainingArguments(str(folder), **{**steps, "disable_tqdm": True, **changes})


@pytest.fixture(scope="module")
def finished(splits, tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a finished run, and its results."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    return folder, train_recommender(splits, arguments(folder), **SMALL)


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished[0], tmp_path / "model"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_not_repeated(finished, run, splits, caplog):
    before = content(run)
    assert train_recommender(splits, arguments(run), **SMALL) == finished[1]
    assert "finished" in caplog.text
    assert content(run) == before


@pytest.mark.parametrize(
    ("changes", "options", "named"),
    [
        ({"seed": 7}, {}, r"arguments\.seed \(42 there, 7 here\)"),
        ({"learning_rate": 0.1}, {}, r"arguments\.learning_rate \(0\.002 there, 0\.1 here\)"),
        ({"max_steps": 8}, {}, r"arguments\.max_steps"),
        ({}, {"config": SMALL["config"] | {"is_decoder": False}}, r"config\.is_decoder"),
        ({}, {"config": SMALL["config"] | {"num_attention_heads": 4}}, r"config\.num_attention_heads"),
        ({}, {"collator": {"window_probability": 0.0}}, r"options\.collator\.window_probability"),
    ],
)
def test_another_run_in_its_folder_is_an_error_that_names_what_differs(run, splits, changes, options, named):
    before = content(run)
    with pytest.raises(ValueError, match=named):
        train_recommender(splits, arguments(run, **changes), **(SMALL | options))
    assert content(run) == before


def test_other_data_are_another_run(run):
    other = leave_one_out(build_sequences(shop_log(num_users=61)[0]))
    with pytest.raises(ValueError, match=r"data\.train"):
        train_recommender(other, arguments(run), **SMALL)


def test_a_model_is_not_fine_tuned_into_its_own_folder(run, splits):
    with pytest.raises(ValueError, match="initial_weights"):
        train_recommender(splits, arguments(run), model_name_or_path=str(run))


def test_a_run_is_replaced_on_request_and_foreign_files_stay(run, splits):
    (run / "notes.txt").write_text("precious")
    (run / "checkpoint-best").mkdir()
    train_recommender(splits, arguments(run, seed=7, overwrite_output_dir=True), **SMALL)
    assert json.loads((run / "run.json").read_text())["arguments"]["seed"] == 7
    assert (run / "notes.txt").read_text() == "precious" and (run / "checkpoint-best").is_dir()


@pytest.mark.parametrize("name", ["model.safetensors", "all_results.json"])
def test_a_run_without_its_last_files_goes_on_to_the_same_results(finished, run, splits, name):
    (run / name).unlink()
    results = train_recommender(splits, arguments(run), **SMALL)
    assert results["model"]["ndcg@10"] == finished[1]["model"]["ndcg@10"]
    assert (run / name).read_bytes() == (finished[0] / name).read_bytes() or name == "all_results.json"


def test_results_that_were_cut_by_a_crash_do_not_stop_the_next_run(finished, run, splits):
    (run / "all_results.json").write_text("")
    results = train_recommender(splits, arguments(run), **SMALL)
    assert results["model"]["ndcg@10"] == finished[1]["model"]["ndcg@10"]
    assert json.loads((run / "all_results.json").read_text())["test_ndcg@10"] == results["model"]["ndcg@10"]


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "tokenizer.json", "config.json", "draws_0.safetensors"],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(run, name, caplog):
    with RunFolder(run, "bert4rec") as folder:
        assert folder.choose_checkpoint(None).endswith("checkpoint-6")
        os.truncate(run / "checkpoint-6" / name, 20)
        assert folder.choose_checkpoint(None).endswith("checkpoint-4")
    assert "checkpoint-6 is skipped" in caplog.text and name in caplog.text
    (run / "checkpoint-4" / "rng_state.pth").unlink()
    assert "rng_state.pth" in find_damage(run / "checkpoint-4")
    with pytest.raises(ValueError, match=r"checkpoint-6.*" + name.replace(".", r"\.")):
        RunFolder(run, "bert4rec").choose_checkpoint(str(run / "checkpoint-6"))


def test_a_checkpoint_that_is_not_there_is_named_before_training(tmp_path, splits):
    with pytest.raises(ValueError, match="nowhere"):
        train_recommender(splits, arguments(tmp_path / "x", resume_from_checkpoint="nowhere"), **SMALL)


def test_what_an_interrupted_save_left_is_removed(run):
    (run / f".{run.name}-abcd").mkdir()
    (run / ".run.json-abcd").write_text("{")
    with RunFolder(run, "bert4rec"):
        assert not [path for path in run.iterdir() if path.name.endswith("-abcd")]


def test_two_trainings_do_not_write_to_one_folder(run):
    with RunFolder(run, "bert4rec"), pytest.raises(ValueError, match="another training"), RunFolder(run, "bert4rec"):
        pass


def test_processes_that_would_train_alone_are_an_error(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    check_processes(args)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes.*--use_cpu"):
        check_processes(args)


def test_one_process_in_place_of_several_and_sharded_weights_are_errors(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    check_processes(args)
    monkeypatch.setenv("MASTER_PORT", "29500")  # which accelerate sets for several processes
    with pytest.raises(ValueError, match="starts one process.*--multi_gpu"):
        check_processes(args)
    monkeypatch.delenv("MASTER_PORT")
    args.fsdp = True
    with pytest.raises(ValueError, match="--fsdp.*--sharded"):
        check_processes(args)


@pytest.mark.parametrize("name", ["popularity", "last-item Markov"])
def test_a_model_is_not_called_like_a_baseline(splits, tmp_path, name):
    with pytest.raises(ValueError, match=name):
        train_recommender(splits, arguments(tmp_path / name), **SMALL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_noticed_before_training(splits, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError):
        train_recommender(splits, arguments(tmp_path / "locked" / "model"), **SMALL)


def test_a_name_that_is_too_long_and_a_short_input_are_noticed_before_training(splits, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_rec.training.run.fit", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(OSError, match="too long"):
        train_recommender(splits, arguments(tmp_path / ("x" * 300)), **SMALL)
    with pytest.raises(Exception, match="max_position_embeddings must be at least 2, got 1"):
        train_recommender(splits, arguments(tmp_path / "short"), **(SMALL | {"max_length": 1}))


def test_training_that_diverges_is_an_error_and_saves_nothing(splits, tmp_path):
    args = arguments(tmp_path / "run", learning_rate=1e30, eval_strategy="no", max_grad_norm=0.0, warmup_steps=0)
    with pytest.raises(ValueError, match="not finite.*--learning_rate"):
        train_recommender(splits, args, **SMALL)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_label_smoothing_is_refused_before_training(splits, tmp_path):
    with pytest.raises(ValueError, match=r"'label_smoothing_factor': 0\.1"):
        train_recommender(splits, arguments(tmp_path / "run", label_smoothing_factor=0.1), **SMALL)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_without_validation_the_last_weights_are_kept(splits, tmp_path):
    results = train_recommender(splits, arguments(tmp_path / "run", eval_strategy="no"), **SMALL)
    assert results["run"]["mrr"] > 0
    last = torch.load(tmp_path / "run" / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert last["state"]
