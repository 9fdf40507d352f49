import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from fake_hub import TOKEN, fake_hub
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import pipeline

from hf_rec import Bert4RecConfig, RecommendationCollator, training
from hf_rec.arguments import DataArguments
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.optimization import SparseRowAdamW
from hf_rec.sampler import ShuffledLengthGroupedSampler
from hf_rec.shop import shop_log
from hf_rec.training import RecommendationTrainingArguments, evaluate_recommender, load_or_create, train_recommender

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = {"max_length": 16, "config": {"hidden_size": 16, "intermediate_size": 32}}


@pytest.fixture(scope="module")
def splits():
    return leave_one_out(build_sequences(shop_log(num_users=300)[0]))


@pytest.fixture(scope="module")
def log_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "log.parquet"
    pyarrow.parquet.write_table(shop_log(num_users=300)[0], path)
    return path


def arguments(folder: Path, **changes) -> RecommendationTrainingArguments:
    by_epoch = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch")
    return RecommendationTrainingArguments(
        str(folder),
        **{"num_train_epochs": 2, "per_device_train_batch_size": 16, "disable_tqdm": True, **by_epoch} | changes,
    )


def script(name: str, *options: object, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / name), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def test_a_run_leaves_a_model_its_card_and_its_results(splits, tmp_path):
    folder = tmp_path / "recommender"
    results = train_recommender(splits, arguments(folder), dataset="a test log", **SMALL)
    assert list(results) == ["popularity", "last-item Markov", "recommender"]
    saved = json.loads((folder / "all_results.json").read_text())
    assert saved["train_samples_per_second"] > 0
    assert saved["epoch"] == 2
    for metric in ("ndcg@10", "hr@10", "mrr"):
        assert saved[f"test_{metric}"] == results["recommender"][metric]
        assert saved[f"popularity_{metric}"] == results["popularity"][metric]
    assert json.loads((folder / "test_results.json").read_text())["test_mrr"] == saved["test_mrr"]
    assert (folder / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    card = (folder / "README.md").read_text()
    assert f"{results['recommender']['ndcg@10']:.4f}" in card
    assert "a test log" in card
    assert "items of the user's history excluded" in card
    assert ", top_k=5)  #" in card
    assert len(pipeline("recommendation", model=str(folder))(["sku-001"])) == 10

    again = evaluate_recommender(str(folder), splits)
    assert list(again) == list(results)
    for metric in ("ndcg@10", "hr@10", "mrr", "coverage@10"):
        assert [row[metric] for row in again.values()] == pytest.approx([row[metric] for row in results.values()])


def test_a_large_catalogue_is_trained_with_sampled_negatives_and_row_updates(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LARGE_CATALOGUE", 50)
    updated = []
    update = SparseRowAdamW.update_rows
    monkeypatch.setattr(
        SparseRowAdamW,
        "update_rows",
        lambda self, parameter, gradient, group: (
            updated.append(len(gradient.values())) or update(self, parameter, gradient, group)
        ),
    )
    small = SMALL | {"patience": 120, "config": SMALL["config"] | {"num_negatives": 16}}
    results = train_recommender(
        splits, arguments(tmp_path / "sampled", num_train_epochs=120, learning_rate=1e-2), **small
    )
    config = Bert4RecConfig.from_pretrained(tmp_path / "sampled")
    assert (config.loss_type, config.num_negatives) == ("sampled_softmax", 16)
    assert len(updated) == 600 and max(updated) <= config.vocab_size
    assert results["sampled"]["ndcg@10"] > results["popularity"]["ndcg@10"]

    config = SMALL["config"] | {"loss_type": "softmax"}
    train_recommender(splits, arguments(tmp_path / "full", num_train_epochs=1), max_length=16, config=config)
    assert len(updated) == 600
    assert Bert4RecConfig.from_pretrained(tmp_path / "full").loss_type == "softmax"


@pytest.mark.parametrize(("is_decoder", "epochs"), [(False, 60), (True, 20)], ids=["cloze", "next-item"])
def test_training_learns_what_the_baselines_cannot(tmp_path, is_decoder, epochs):
    splits = leave_one_out(build_sequences(shop_log(num_users=1500)[0]))
    args = arguments(tmp_path / "shop", num_train_epochs=epochs, learning_rate=5e-3)
    config = {"hidden_size": 32, "intermediate_size": 64, "is_decoder": is_decoder}
    results = train_recommender(splits, args, max_length=16, config=config)
    assert (args.learning_rate, args.weight_decay) == (5e-3, 2.0 if is_decoder else 0.2)
    assert results["shop"]["hr@10"] > 1.1 * results["last-item Markov"]["hr@10"]
    assert results["last-item Markov"]["hr@10"] > 2 * results["popularity"]["hr@10"]


@pytest.mark.parametrize("is_decoder", [False, True], ids=["cloze", "next-item"])
def test_where_seen_items_are_ranked_a_model_learns_when_people_come_back(is_decoder, tmp_path):
    generator = np.random.default_rng(0)
    cycles = (generator.choice(80, 3, replace=False) for _ in range(300))  # each user buys three items in turn
    log = {
        "user_id": np.repeat(np.arange(300), 12),
        "item_id": np.concatenate([np.tile(cycle, 4) for cycle in cycles]),
        "timestamp": np.tile(np.arange(12), 300),
    }
    splits = leave_one_out(build_sequences(pd.DataFrame(log)))
    config = {"is_decoder": is_decoder, "hidden_size": 16}
    args = arguments(tmp_path / "model", num_train_epochs=30, learning_rate=5e-3)
    results = train_recommender(splits, args, config=config | {"exclude_seen": False}, max_length=12)
    assert results["model"]["ndcg@10"] > results["last-item Markov"]["ndcg@10"]
    model, _ = load_or_create(splits, str(tmp_path / "model"))
    assert (model.repeat_bias.bias > 0).nonzero()[:, 0].tolist() == [2, 5, 8]  # steps back from the last item
    with pytest.raises(StrictDataclassError, match="use_repeat_bias needs loss_type='softmax', got 'gbce'"):
        load_or_create(splits, str(tmp_path / "model"), {"loss_type": "gbce"})
    assert not load_or_create(splits, None, config, max_length=12)[0].config.use_repeat_bias


def test_a_seed_gives_the_run_again_to_the_bit(splits, tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        train_recommender(splits, arguments(tmp_path / name, seed=seed), **SMALL)
    one, same, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "same", "other"))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["decoder.bias"], other["decoder.bias"])


def test_the_best_model_by_validation_is_kept_and_training_stops_early(splits, tmp_path):
    args = arguments(tmp_path / "run", num_train_epochs=50, learning_rate=0.0, warmup_steps=0)  # never better
    train_recommender(splits, args, patience=2, **SMALL)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["epoch"] == 3
    assert state["best_metric"] == max(e["eval_ndcg@10"] for e in state["log_history"] if "eval_ndcg@10" in e)
    assert state["best_global_step"] == state["global_step"] / 3


def test_a_trainer_evaluates_before_it_trains(splits, tmp_path):
    model, tokenizer = training.load_or_create(splits, None, **SMALL)
    collate = RecommendationCollator(tokenizer)
    trainer, _ = training.ranking_trainer(model, tokenize_splits(splits, tokenizer), collate, arguments(tmp_path))
    assert trainer.evaluate()["eval_hr@10"] > 0
    trainer.train()
    seconds = [entry["seconds"] for entry in trainer.state.log_history if "eval_hr@10" in entry and "seconds" in entry]
    assert 0 < seconds[0] < seconds[1]


@pytest.mark.parametrize(("is_decoder", "short"), training.RECIPES, ids=str)
def test_a_model_follows_the_recipe_of_its_objective_and_length(splits, tmp_path, is_decoder, short):
    max_length = training.SHORT if short else training.SHORT + 1
    recipe = training.RECIPES[is_decoder, short]
    model, tokenizer = training.load_or_create(splits, None, {"is_decoder": is_decoder}, max_length)
    assert model.config.hidden_size == recipe.hidden_size
    assert model.config.hidden_dropout_prob == recipe.hidden_dropout_prob
    assert model.config.use_repeat_bias == recipe.use_repeat_bias
    collate = training.suitable_collator(model, tokenizer)
    args = arguments(tmp_path, weight_decay=0.0)
    training.ranking_trainer(model, tokenize_splits(splits, tokenizer), collate, args)
    assert (args.learning_rate, args.weight_decay) == (recipe.learning_rate, 0.0)


def test_a_step_is_of_any_histories_and_its_parts_are_of_similar_length(splits, tmp_path):
    model, tokenizer = training.load_or_create(splits, None, **SMALL)
    collate, tokenized = RecommendationCollator(tokenizer), tokenize_splits(splits, tokenizer)
    args = arguments(tmp_path, seed=4, per_device_train_batch_size=16, gradient_accumulation_steps=4)
    trainer, _ = training.ranking_trainer(model, tokenized, collate, args)
    lengths = [min(length, 16) for length in tokenized["train"]["length"]]
    expected = ShuffledLengthGroupedSampler(64, lengths, seed=4)
    for epoch in (0, 1, 0):
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        expected.set_epoch(epoch)
        rows = list(expected)
        parts = [[lengths[row] for row in rows[start : start + 16]] for start in range(0, len(rows), 16)]
        assert [batch["input_ids"].shape for batch in loader] == [(len(part), max(part)) for part in parts]
    trainer, _ = training.ranking_trainer(
        model, tokenized, collate, arguments(tmp_path, train_sampling_strategy="random")
    )
    assert isinstance(trainer.get_train_dataloader().batch_sampler.sampler, torch.utils.data.RandomSampler)


def test_fine_tuning_goes_on_from_a_saved_model_with_its_catalogue(splits, tmp_path):
    train_recommender(splits, arguments(tmp_path / "first"), **SMALL)
    few = leave_one_out(build_sequences(shop_log(num_users=40, seed=5)[0]))
    first = str(tmp_path / "first")
    train_recommender(few, arguments(tmp_path / "second", learning_rate=0.0), model_name_or_path=first)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(before[key], after[key]) for key in before)
    changed = {"is_decoder": True, "hidden_dropout_prob": 0.5}
    args = arguments(tmp_path / "third", learning_rate=0.0)
    train_recommender(few, args, model_name_or_path=first, config=changed)
    config = Bert4RecConfig.from_pretrained(tmp_path / "third")
    assert (config.is_decoder, config.hidden_dropout_prob) == (True, 0.5)
    assert config.architectures == ["Bert4RecForCausalLM"]
    after = load_file(tmp_path / "third" / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    given = {"hidden_size": 8, "num_hidden_layers": 2, "use_time_gaps": False}
    message = r"first was made with hidden_size=16, max_position_embeddings=16, which cannot be changed"
    with pytest.raises(ValueError, match=message):
        train_recommender(few, arguments(tmp_path / "x"), model_name_or_path=first, config=given, max_length=32)


def test_of_a_named_data_set_columns_are_known_and_counts_may_be_given(monkeypatch):
    with pytest.raises(
        ValueError, match=r"the columns and the split of ml-1m are known; do not give \['user_column'\]"
    ):
        DataArguments(dataset_name="ml-1m", user_column="u")
    asked = {}
    monkeypatch.setattr(
        "hf_rec.arguments.load_preset",
        lambda name, **counts: asked.update({name: counts}) or build_sequences(shop_log(num_users=9)[0]),
    )
    for dataset, counts in (("ml-1m", {}), ("ml-20m", {"min_user_count": 20})):
        assert len(DataArguments(dataset_name=dataset, **counts).load_splits()["test"]) == 9
        assert asked[dataset] == counts


def test_other_content_in_the_output_directory_is_an_error_and_stays(splits, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no checkpoint"):
        train_recommender(splits, arguments(tmp_path), **SMALL)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a model of type 'bert'"):
        train_recommender(splits, arguments(tmp_path), **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "thesis.txt"]


def test_going_on_with_another_catalogue_is_an_error(splits, tmp_path):
    train_recommender(splits, arguments(tmp_path / "run"), **SMALL)
    log = pyarrow.table({"user_id": ["u"] * 4, "item_id": [*"abcd"], "timestamp": [1, 2, 3, 4]})
    other = leave_one_out(build_sequences(log))
    with pytest.raises(ValueError, match="trained on another catalogue of items; give another --output_dir"):
        train_recommender(other, arguments(tmp_path / "run"), **SMALL)


def test_a_killed_run_goes_on_to_the_same_end(log_file, tmp_path):
    options = ["--train_file", log_file, "--max_length", 16, "--hidden_size", 16, "--num_train_epochs", 12]
    options += ["--disable_tqdm", "true", "--save_total_limit", 100]
    options += ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--per_device_train_batch_size", 64]
    whole = script("train.py", *options, "--output_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    killed = tmp_path / "killed"
    command = [sys.executable, str(SCRIPTS / "train.py"), *map(str, options), "--output_dir", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(killed.glob("checkpoint-*/trainer_state.json"))) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "config.json").exists()
    last = max(killed.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    os.truncate(last / "trainer_state.json", 10)  # as if it had been killed while saving
    resumed = script("train.py", *options, "--output_dir", killed)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stderr
    log = json.loads((killed / "trainer_state.json").read_text())["log_history"]
    seconds = [entry["seconds"] for entry in log if "seconds" in entry]
    assert seconds == sorted(seconds) and seconds[-1] > log[-1]["train_runtime"] + seconds[0] / 2
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_pushing_tells_nobody_the_token_and_uploads_no_pickle(log_file, tmp_path):
    options = ["--train_file", log_file, "--output_dir", tmp_path / "shop", "--max_steps", 4, "--disable_tqdm", "true"]
    options += ["--push_to_hub", "--hub_model_id", "user/shop"]
    with fake_hub() as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        early = script("train.py", *options, "--hub_strategy", "every_save", "--hub_token", TOKEN, env=environment)
        assert "hub_strategy must be 'end', got 'every_save'" in early.stderr
        pushed = script("train.py", *options, f"--hub_token={TOKEN}", env=environment)
        assert pushed.returncode == 0, pushed.stderr
        commits = hub.commits["user/shop"]
    assert [message for _, message, files in commits if files] == ["Upload recommender"]
    files = commits[-1][2]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert not any(TOKEN.encode() in content for content in files.values())
    assert "--hub_token TOKEN\n" in files["README.md"].decode()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


def test_evaluate_and_recommend_scripts_tell_what_training_told(log_file, tmp_path):
    folder = tmp_path / "model"
    trained = script(
        "train.py", "--train_file", log_file, "--output_dir", folder, "--max_steps", 5, "--disable_tqdm", "true"
    )
    assert trained.returncode == 0, trained.stderr
    expected = json.loads((folder / "all_results.json").read_text())
    shown = f"--train_file {log_file.parent.name}/log.parquet --output_dir {tmp_path.name}/model --max_steps 5"
    assert f"python scripts/train.py {shown}" in (folder / "README.md").read_text()
    output = tmp_path / "metrics.json"
    evaluated = script(
        "evaluate.py", "--model_name_or_path", folder, "--train_file", log_file, "--output_file", output
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(output.read_text())["model"]["ndcg@10"] == pytest.approx(expected["test_ndcg@10"])

    one = script("recommend.py", "--model_name_or_path", folder, "--history", "sku-001", "sku-002", "--top_k", 3)
    recommended = pipeline("recommendation", model=str(folder))(["sku-001", "sku-002"], top_k=3)
    found = json.loads(one.stdout)["recommended"]
    assert [entry["item_id"] for entry in found] == [entry["item_id"] for entry in recommended]
    everyone = script("recommend.py", "--model_name_or_path", folder, "--file", log_file)
    lines = [json.loads(line) for line in everyone.stdout.splitlines()]
    assert [line["user_id"] for line in lines] == [f"shopper-{user:04}" for user in range(300)]
    assert all(len(line["recommended"]) == 10 for line in lines)


def clock_log(path: Path) -> Path:
    """Purchases of ten items: soon after an item its neighbour is bought, after a long time the one across."""
    rng, rows = np.random.default_rng(0), []
    for user in range(300):
        item, time = int(rng.integers(10)), 0
        for late in rng.random(8) < 0.5:
            rows.append((user, f"item-{item}", time))
            item, time = (item + (5 if late else 1)) % 10, time + (100_000 if late else int(rng.integers(1, 60)))
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_parquet(path)
    return path


@pytest.mark.parametrize("objective", ["next-item", "cloze"])
def test_a_model_of_time_gaps_answers_by_the_clock(objective, tmp_path):
    log, folder = clock_log(tmp_path / "log.parquet"), tmp_path / "model"
    options = ["--objective", objective, "--max_steps", 800, "--learning_rate", 5e-3, "--hidden_size", 64]
    trained = script(
        "train.py", "--train_file", log, "--output_dir", folder, *options, "--use_time_gaps", "--include_seen",
        "--eval_steps", 0.5, "--save_steps", 0.5, "--hidden_dropout_prob", 0.0, "--use_repeat_bias", "false",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    recommend = pipeline("recommendation", model=str(folder), top_k=1)
    for last in range(10):
        history = {"item_ids": [f"item-{(last + 9) % 10}", f"item-{last}"], "timestamps": [0, 30]}
        soon, late = recommend([history | {"time": 40}, history | {"time": 100_030}])
        assert (soon[0]["item_id"], late[0]["item_id"]) == (f"item-{(last + 1) % 10}", f"item-{(last + 5) % 10}")

    results = json.loads((folder / "all_results.json").read_text())
    assert results["test_ndcg@5"] > 0.85  # one of two without the clock: (1 + 1 / log2(3)) / 2 = 0.82 at best
    metrics = tmp_path / "metrics.json"
    evaluate = ["evaluate.py", "--model_name_or_path", folder, "--train_file", log, "--output_file", metrics]
    script(*evaluate)
    assert json.loads(metrics.read_text())["model"]["hr@10"] == pytest.approx(results["test_hr@10"])
    without_seen = script(*evaluate, "--include_seen", "false")
    assert "of the test targets are items of their user's history" in without_seen.stderr
    assert json.loads(metrics.read_text())["model"]["hr@10"] < results["test_hr@10"]
    everyone = script("recommend.py", "--model_name_or_path", folder, "--file", log, "--top_k", 1)
    timeless = script("recommend.py", "--model_name_or_path", folder, "--history", "item-1", "--time", 5)
    assert "--time goes with --file" in timeless.stderr
    sequences = build_sequences(log)
    first = {"item_ids": sequences[0]["item_ids"], "timestamps": sequences[0]["timestamps"]}
    assert json.loads(everyone.stdout.splitlines()[0])["recommended"][0]["item_id"] == recommend(first)[0]["item_id"]
    example = re.search(r"^recommend\((.*), top_k=5\)", (folder / "README.md").read_text(), re.MULTILINE)[1]
    assert ast.literal_eval(example).keys() == {"item_ids", "timestamps", "time"}
    assert "The model knows the times of the items and of the request." in (folder / "README.md").read_text()


def test_a_reproduction_tells_of_all_seeds_and_goes_on_where_it_stopped(log_file, tmp_path):
    data, cards = tmp_path / "data" / "shop", tmp_path / "cards"
    data.mkdir(parents=True)
    (data / "interactions.parquet").write_bytes(log_file.read_bytes())
    small = ["--max_length", 16, "--hidden_size", 16, "--num_train_epochs", 2, "--disable_tqdm", "true"]
    folders = ["--data_dir", data.parent, "--output_dir", tmp_path / "runs", "--cards_dir", cards]
    runs = (("next-item", [0], []), ("next-item", [0, 3], []), ("cloze", [1], ["--use_time_gaps"]))
    for objective, seeds, times in runs:
        done = script("reproduce.py", "shop", "--objective", objective, *times, "--seeds", *seeds, *folders, *small)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Test metrics, full ranking") == 1  # one run is new
    other = script("reproduce.py", "shop", "--seeds", 0, *folders, *small[:-2], "--hidden_size", 8)
    assert "holds a run with other arguments than" in other.stderr and other.returncode != 0
    fewer = script("reproduce.py", "shop", "--seeds", 0, *folders, *small[:-2])
    assert "holds a run with other arguments than" in fewer.stderr and fewer.returncode != 0
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
    assert Bert4RecConfig.from_pretrained(timed).use_time_gaps
    assert "reproduce.py shop --objective cloze --use_time_gaps --seeds 1 " in page


def test_a_page_of_results_tells_when_milestones_were_reached(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import reproduce

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
    assert "Validation NDCG@10 first was 0.16 after 20, 10 s (cloze)." in page
    assert "Validation NDCG@10 first was 0.175 after -, - s (cloze)." in page


def test_an_ablation_changes_one_thing_at_a_time(log_file, tmp_path):
    command = ["ablate.py", "--train_file", log_file, "--steps", 10, "--output_dir", tmp_path, "--hidden_size", 16]
    done = script(*command, "--variants", "the recipe", "1 head", "SwiGLU", "gated layers (LiGR)")
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.endswith(" |")][1:]
    assert [row[0] for row in rows] == ["| the recipe", "| 1 head", "| SwiGLU", "| gated layers (LiGR)"]
    assert len({tuple(row[1:3]) for row in rows}) == 4
    runs = tmp_path / f"{log_file.parent.name}-10-seed-0"
    assert Bert4RecConfig.from_pretrained(runs / "1-head").num_attention_heads == 1
    assert Bert4RecConfig.from_pretrained(runs / "SwiGLU").num_attention_heads == 2
    assert "model.layers.1.attention.gate.weight" in load_file(runs / "gated-layers--LiGR-" / "model.safetensors")
    other = script(*command, "--variants", "1 head", "--include_seen")
    assert other.returncode != 0 and "holds a run with other arguments than" in other.stderr
    unknown = script(*command, "--variants", "2 heads")
    assert unknown.returncode != 0 and "no variant ['2 heads']; there are ['the recipe', " in unknown.stderr


def test_the_time_to_quality_is_that_of_whole_runs(log_file, tmp_path):
    options = ["--train_file", log_file, "--seed", 3, "--hidden_size", 16]
    done = script("benchmark_time.py", *options, "--steps", 6)
    assert done.returncode == 0, done.stderr
    steps, seconds, training, ndcg, hr = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert steps == "6" and 0 <= int(training) < int(seconds)
    few = ["--objective", "next-item", "--max_steps", 6, "--eval_steps", 0.2, "--save_steps", 0.2]
    script("train.py", *options, *few, "--output_dir", tmp_path / "model")
    results = json.loads((tmp_path / "model" / "all_results.json").read_text())
    assert (ndcg, hr) == (f"{results['test_ndcg@10']:.4f}", f"{results['test_hr@10']:.4f}")


@pytest.mark.parametrize("is_decoder", [False, True])
def test_each_part_of_an_ablation_changes_what_is_learned(is_decoder, splits, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import ablate

    def loss() -> float:
        torch.manual_seed(0)
        model, tokenizer = training.load_or_create(splits, None, SMALL["config"] | {"is_decoder": is_decoder}, 16)
        torch.nn.init.normal_(model.decoder.bias)
        collate = training.suitable_collator(model, tokenizer)
        rows = tokenize_splits(splits, tokenizer)["train"].select(range(8)).select_columns("input_ids").to_list()
        loss = model.train()(**collate(rows)).loss
        loss.backward()
        gradients = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        return loss.item(), torch.stack(gradients).norm().item()

    plain, changed = loss(), {}
    for name, parts in ablate.PARTS.items():
        with monkeypatch.context() as patch:
            for (module, attribute), part in parts.items():
                patch.setattr(module, attribute, part)
            changed[name] = loss()
    same = {name for name, values in changed.items() if values == pytest.approx(plain, rel=1e-4)}
    order = {"steps of similar lengths"}  # of training, which one batch does not show
    assert same == order | (set() if is_decoder else {"recent items asked for more often"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --train_file and --dataset_name"),
        (["--train_file", "nowhere.parquet"], "no file nowhere.parquet"),
        (["--train_file", "LOG", "--item_column", "sku"], r"no column ['sku'] in the table, which has ['user_id'"),
    ],
)
def test_a_wrong_call_says_what_to_do(options, message, log_file, tmp_path):
    options = [log_file if option == "LOG" else option for option in options]
    failed = script("train.py", *options, "--output_dir", tmp_path / "out")
    assert failed.returncode != 0
    assert message in failed.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ml-100k", "amazon-beauty"])
def test_real_data_trains_to_better_than_the_baselines(real_data, tmp_path, name):
    splits = leave_one_out(build_sequences(real_data / name / "interactions.parquet"))
    args = arguments(tmp_path / name, num_train_epochs=60)
    results = train_recommender(splits, args, max_length=100 if name == "ml-100k" else 50)
    assert results[name]["ndcg@10"] > results["popularity"]["ndcg@10"]
    assert (
        Bert4RecConfig.from_pretrained(tmp_path / name).vocab_size == {"ml-100k": 1685, "amazon-beauty": 12104}[name]
    )


def test_the_speed_benchmark_times_the_models_side_by_side(log_file):
    small = ["--max_length", 16, "--batch_size", 32, "--hf_rec_steps", 3, "--plain_steps", 2, "--runs", 1]
    done = script("benchmark_training.py", "--train_file", log_file, *small)
    assert done.returncode == 0, done.stderr
    cells = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "+ Trainer" in line]
    (plain, plain_speed, ratio, _), (ours, speed, one, _) = cells
    assert (plain, ours, one) == ("BertForMaskedLM + Trainer", "hf_rec + Trainer", "1.0")
    assert float(ratio) == pytest.approx(float(speed) / float(plain_speed), rel=0.1)
