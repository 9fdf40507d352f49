"""The scripts that reproduce, ablate and measure, on a small log. What they run in new processes runs in this one."""

import io
import json
import sys
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from types import SimpleNamespace

import ablate
import benchmark_time
import benchmark_training
import pyarrow.parquet
import pytest
import reproduce
import torch
from runs import ITEMS, SIZES, shop_splits
from safetensors.torch import load_file

from hf_rec import Bert4RecConfig
from hf_rec.cli.main import main
from hf_rec.data.demo_log import shop_log
from hf_rec.data.encode import tokenize_splits
from hf_rec.training import Hooks, create_model

FAST = ["--use_cpu", "true", "--gradient_accumulation_steps", 1, "--per_device_train_batch_size", 64]


@pytest.fixture(scope="module")
def log_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shop" / "interactions.parquet"
    path.parent.mkdir()
    pyarrow.parquet.write_table(shop_log(num_users=120)[0], path)
    return path


def in_this_process(command, check=False, stdout=None, **_):
    """Stands for `subprocess.run` of a Python script or module."""
    python, name, *arguments = command
    assert python == sys.executable and check
    module = import_module(arguments.pop(0) if name == "-m" else Path(name).stem)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed if stdout == PIPE else stdout or sys.stdout):
        patch.setattr(sys, "argv", [name, *arguments])
        module.main()
    return CompletedProcess(command, 0, printed.getvalue())


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs the `main` of a script; returns what it prints."""
    monkeypatch.setattr("hf_rec.training.run.plot_training_curve", lambda *_: None)
    for module in (reproduce, benchmark_training):
        monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=in_this_process, PIPE=PIPE))

    def run(module, *options: object) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, options)])
        module.main()
        return capsys.readouterr().out

    return run


def test_a_reproduction_has_all_seeds_and_resumes_where_it_stopped(log_file, tmp_path, script):
    cards = tmp_path / "cards"
    small = ["--max_length", 16, "--hidden_size", 16, "--num_train_epochs", 2, *FAST, "--disable_tqdm", "true"]
    folders = ["--data_dir", log_file.parents[1], "--output_dir", tmp_path / "runs", "--cards_dir", cards]
    timed = ["--request_columns", "time_gap"]
    for objective, seeds, times in (("next-item", [0], []), ("next-item", [0, 3], []), ("cloze", [1], timed)):
        printed = script(reproduce, "shop", "--objective", objective, *times, "--seeds", *seeds, *folders, *small)
        assert printed.count("Test metrics, full ranking") == 1  # one run is new
    for other in ([*small[:-2], "--hidden_size", 8], small[:-2]):
        with pytest.raises(ValueError, match="holds a run with other arguments than"):
            script(reproduce, "shop", "--seeds", 0, *folders, *other)
    runs = [
        json.loads((tmp_path / "runs" / folder / "all_results.json").read_text())
        for folder in ("seed-0/bert4rec-shop-causal", "seed-3/bert4rec-shop-causal", "seed-1/bert4rec-shop-timed")
    ]
    page = (cards / "results.md").read_text()
    values = [run["test_ndcg@10"] for run in runs]
    assert f"{(values[0] + values[1]) / 2:.4f} ± {abs(values[0] - values[1]) / 2**0.5:.4f}" in page
    assert f"seeds [1] | {values[2]:.4f} |" in page
    assert f"| popularity | {runs[0]['popularity_ndcg@10']:.4f} |" in page
    assert (cards / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    timed = tmp_path / "runs" / "seed-1" / "bert4rec-shop-timed"
    assert (cards / "bert4rec-shop-timed.md").read_text() == (timed / "README.md").read_text()
    assert Bert4RecConfig.from_pretrained(tmp_path / "runs/seed-3/bert4rec-shop-causal").is_decoder
    assert not Bert4RecConfig.from_pretrained(timed).is_decoder
    assert [feature.name for feature in Bert4RecConfig.from_pretrained(timed).features] == ["time_gap"]
    assert "reproduce.py shop --objective cloze --request_columns time_gap --seeds 1 " in page
    script(reproduce, "shop", "--seeds", 0, "--shuffle_ties", *folders, *small)
    shuffled = json.loads((tmp_path / "runs/seed-0/bert4rec-shop-causal-ties-shuffled/all_results.json").read_text())
    page = (cards / "results.md").read_text()
    assert f"**bert4rec-shop-causal-ties-shuffled**, seeds [0] | {shuffled['test_ndcg@10']:.4f} |" in page
    assert "reproduce.py shop --objective next-item --shuffle_ties --seeds 0 " in page


def test_rows_in_a_random_order_are_the_rows_of_the_log(log_file, tmp_path):
    log = pyarrow.parquet.read_table(log_file)
    shuffled = [
        pyarrow.parquet.read_table(reproduce.shuffle_rows(log_file, tmp_path / str(number), seed))
        for number, seed in enumerate((0, 0, 1))
    ]
    assert shuffled[0] == shuffled[1] != shuffled[2] and shuffled[0] != log
    columns = [(name, "ascending") for name in log.column_names]
    assert all(table.sort_by(columns) == log.sort_by(columns) for table in shuffled)
    assert (tmp_path / "0" / "shop" / "interactions.parquet").exists()


def test_a_page_of_results_has_the_times_of_milestones(tmp_path):
    metrics = dict.fromkeys(reproduce.METRICS, 0.5)
    run = {
        "test": metrics,
        "baselines": {"popularity": metrics},
        "validation": [0.16, 0.3],
        "seconds": 30.0,
        "epochs": 2.0,
    }
    runs = [run | {"curve": [[10.4, 0.1], [20.0, 0.17]]}, run | {"curve": [[9.6, 0.16], [19.0, 0.15]]}]
    result = {"dataset": "ml-1m", "objective": "cloze", "name": "m", "seeds": [0, 1], "command": "c", "runs": runs}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "m.json").write_text(json.dumps(result))
    reproduce.write_page(tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert "| | 0.16 | 0.18 | 0.2 |" in page
    assert "| m | 20, 10 | -, - | -, - |" in page


@pytest.mark.slow
def test_an_ablation_changes_one_thing_at_a_time(log_file, tmp_path, script, capsys):
    command = ["--train_file", log_file, "--steps", 5, "--output_dir", tmp_path, "--hidden_size", 16, *FAST]
    printed = script(ablate, *command, "--variants", "the recipe", "1 head", "SwiGLU", "gated layers (LiGR)")
    rows = [line.split(" | ") for line in printed.splitlines() if line.endswith(" |")][1:]
    assert [row[0] for row in rows] == ["| the recipe", "| 1 head", "| SwiGLU", "| gated layers (LiGR)"]
    runs = tmp_path / f"{log_file.parent.name}-5-seed-0"
    losses = [
        json.loads((runs / name / "all_results.json").read_text())["test_loss"]
        for name in ("the-recipe", "1-head", "SwiGLU", "gated-layers--LiGR-")
    ]
    assert len(set(losses)) == 4
    assert Bert4RecConfig.from_pretrained(runs / "1-head").num_attention_heads == 1
    assert Bert4RecConfig.from_pretrained(runs / "SwiGLU").num_attention_heads == 2
    assert "model.layers.1.attention.gate.weight" in load_file(runs / "gated-layers--LiGR-" / "model.safetensors")
    with pytest.raises(ValueError, match="holds a run with other arguments than"):
        script(ablate, *command, "--variants", "1 head", "--include_seen")
    with pytest.raises(SystemExit, match="2"):
        script(ablate, *command, "--variants", "2 heads")
    assert "no variant ['2 heads']; there are ['the recipe', " in capsys.readouterr().err


@pytest.mark.parametrize("is_decoder", [False, True])
def test_each_part_of_an_ablation_changes_what_is_learned(is_decoder):
    tokenized = None

    def loss(hooks) -> tuple[float, float]:
        nonlocal tokenized
        torch.manual_seed(0)
        fields = SIZES | {"is_decoder": is_decoder, "moving_average": 0.5}
        model, tokenizer = create_model(shop_splits(), fields, 16, items=ITEMS, item_columns=["text"], hooks=hooks)
        torch.manual_seed(0)
        torch.nn.init.normal_(model.scores.bias)
        tokenized = tokenized or tokenize_splits(shop_splits(), tokenizer)
        collate = hooks.collator(model.config)
        rows = tokenized["train"].select(range(8)).select_columns("input_ids").to_list()
        loss = model.train()(**collate(rows)).loss
        loss.backward()
        gradients = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        return loss.item(), torch.stack(gradients).norm().item()

    plain = loss(Hooks())
    changed = {name: loss(hooks) for name, (_, hooks) in ablate.PARTS.items()}
    same = {name for name, values in changed.items() if values == pytest.approx(plain, rel=1e-4)}
    order = {"steps of similar lengths"}  # of training, which one batch does not show
    assert same == order | (set() if is_decoder else {"recent items asked for more often"})


def test_the_time_to_quality_is_that_of_whole_runs(log_file, tmp_path, script):
    options = ["--train_file", log_file, "--seed", 3, "--hidden_size", 16, *FAST]
    printed = script(benchmark_time, *options, "--steps", 6)
    steps, seconds, training, ndcg, hr = printed.splitlines()[-1].strip("| ").split(" | ")
    assert steps == "6" and 0 <= int(training) <= int(seconds)
    few = ["--objective", "next-item", "--max_steps", 6, "--eval_steps", 0.2, "--save_steps", 0.2]
    main([*map(str, ["train", *options, *few, "--output_dir", tmp_path / "model"])])
    results = json.loads((tmp_path / "model" / "all_results.json").read_text())
    assert (ndcg, hr) == (f"{results['test_ndcg@10']:.4f}", f"{results['test_hr@10']:.4f}")


def test_the_speed_benchmark_times_the_models_side_by_side(log_file, script, monkeypatch):
    monkeypatch.setattr(benchmark_training, "PEERS", {})
    small = ["--max_length", 16, "--batch_size", 32, "--hf_rec_steps", 3, "--plain_steps", 2, "--runs", 1]
    printed = script(benchmark_training, "--train_file", log_file, *small)
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == [benchmark_training.PLAIN, *benchmark_training.OBJECTIVES]
    speeds = [float(row[1].replace(",", "")) for row in rows]
    assert [float(row[2]) for row in rows] == pytest.approx([speed / speeds[0] for speed in speeds], abs=0.06)
