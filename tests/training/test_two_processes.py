"""Training in two processes with gloo, as `torchrun` starts them, beside one process with the same global batch."""

import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import DatasetDict
from runs import chains_log

from hf_rec.cli.main import main
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.data.users import join_users
from hf_rec.training.run import evaluate_recommender

pytestmark = pytest.mark.slow
OPTIONS = [
    *("--max_steps", 100, "--eval_steps", 0.25, "--save_steps", 0.25, "--gradient_accumulation_steps", 2),
    *("--max_length", 16, "--hidden_size", 32, "--hidden_dropout_prob", 0, "--learning_rate", 1e-2),
    *("--moving_average", 0),
    *("--warmup_steps", 10, "--use_cpu", "true", "--disable_tqdm", "true"),
    *("--event_columns", "rating", "--request_columns", "time_gap", "--user_columns", "rating_sum"),
    *("--items_from_log", "--item_columns", "chain"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the log and the models of one and of two processes, and what the two printed."""
    root = tmp_path_factory.mktemp("processes")
    log = chains_log()
    chain = [item.split("-")[0] for item in log["item_id"].to_pylist()]
    log = log.append_column("chain", pa.array(chain)).append_column("rating", pa.array([1, 2] * (len(log) // 2)))
    pyarrow.parquet.write_table(log, root / "log.parquet")
    users = log.group_by("user_id").aggregate([("rating", "sum")])
    pyarrow.parquet.write_table(users, root / "users.parquet")
    options = [*map(str, ["--train_file", root / "log.parquet", "--users_file", root / "users.parquet", *OPTIONS])]
    main(["train", *options, "--per_device_train_batch_size", "32", "--output_dir", str(root / "one")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    train = ["-m", "hf_rec.cli.train", *options, "--per_device_train_batch_size", "16"]
    done = subprocess.run(
        [*launch, *train, "--output_dir", str(root / "two")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return root, done.stdout


def results_of(folder) -> dict:
    return json.loads((folder / "all_results.json").read_text())


def test_two_processes_learn_what_one_learns(runs):
    one, two = (results_of(runs[0] / name) for name in ("one", "two"))
    assert one["epoch"] == two["epoch"]
    for metric in ("ndcg@10", "hr@10", "mrr"):
        assert two[f"test_{metric}"] == pytest.approx(one[f"test_{metric}"], abs=0.05)
    assert two["test_hr@5"] > 1.1 * two["last-item Markov_hr@5"]
    assert json.loads((runs[0] / "two" / "run.json").read_text())["arguments"]["processes"] == 2


def test_two_processes_evaluate_as_one_does(runs):
    splits = leave_one_out(build_sequences(runs[0] / "log.parquet", event_columns=["rating"]))
    users = pyarrow.parquet.read_table(runs[0] / "users.parquet")
    splits = DatasetDict({name: join_users(split, users, ["rating_sum"]) for name, split in splits.items()})
    found, expected = evaluate_recommender(str(runs[0] / "two"), splits), results_of(runs[0] / "two")
    for metric in ("ndcg@10", "hr@10", "mrr", "coverage@10", "novelty@10"):
        assert expected[f"test_{metric}"] == pytest.approx(found["two"][metric], abs=1e-6)
        for baseline in ("popularity", "last-item Markov"):
            assert expected[f"{baseline}_{metric}"] == found[baseline][metric]


def test_the_results_are_printed_and_written_once(runs):
    root, printed = runs
    assert printed.count("Test metrics, full ranking") == 1
    for name in ("popularity", "last-item Markov", "two"):
        assert len(re.findall(rf"^\| {name} ", printed, re.MULTILINE)) == 1
        assert len(re.findall(rf"^\| {name} ", (root / "two" / "README.md").read_text(), re.MULTILINE)) == 1
    one, two = ({path.name for path in (root / name).iterdir() if path.is_file()} for name in ("one", "two"))
    assert one == two
    assert not [name for name in two if name.endswith(".bak")]
    states = [json.loads((root / name / "trainer_state.json").read_text()) for name in ("one", "two")]
    assert len(states[0]["log_history"]) == len(states[1]["log_history"])
    assert "2 x 1 CPU thread" in (root / "two" / "README.md").read_text()
