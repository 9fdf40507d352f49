"""A whole run: what it learns, what it leaves in its folder, and what may come after it."""

import ast
import json
import re

import pyarrow as pa
import pytest
import torch
from logs import table_of
from runs import SMALL, arguments, cycles_log, shop_splits, steps
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, pipeline

from hf_rec import Bert4RecConfig, ItemTokenizer, RecommendationCollator
from hf_rec.data.demo_log import shop_log
from hf_rec.data.encode import tokenize_splits
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.training.arguments import RecommendationTrainingArguments
from hf_rec.training.create import load_model
from hf_rec.training.hooks import OURS, Hooks
from hf_rec.training.report import Origin
from hf_rec.training.run import evaluate_recommender, train_recommender
from hf_rec.training.trainer import RecommendationTrainer


@pytest.fixture
def no_plot(monkeypatch):
    """Drawing the learning curve takes as long as a small training."""
    monkeypatch.setattr("hf_rec.training.run.plot_training_curve", lambda *_: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a causal model, and its results."""
    folder = tmp_path_factory.mktemp("runs") / "recommender"
    origin = Origin("a test log", command="hf-rec train --seed 42")
    return folder, train_recommender(shop_splits(), arguments(folder), origin=origin, **SMALL)


def test_a_run_leaves_a_model_its_card_and_its_results(trained):
    folder, results = trained
    assert list(results) == ["popularity", "last-item Markov", "recommender"]
    saved = json.loads((folder / "all_results.json").read_text())
    assert saved["train_samples_per_second"] > 0
    assert saved["epoch"] == 2
    for metric in ("ndcg@10", "hr@10", "mrr"):
        assert saved[f"test_{metric}"] == results["recommender"][metric]
        assert saved[f"popularity_{metric}"] == results["popularity"][metric]
        assert saved[f"last-item Markov_{metric}"] == results["last-item Markov"][metric]
    assert (folder / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    card = (folder / "README.md").read_text()
    assert f"{results['recommender']['ndcg@10']:.4f}" in card
    assert "a test log" in card
    assert "hf-rec train --seed 42" in card
    assert "items of the user's history excluded" in card
    assert ", top_k=5)  #" in card
    assert len(pipeline("recommendation", model=str(folder))(["sku-001"])) == 10


def test_a_saved_model_is_evaluated_to_the_same_results(trained):
    folder, results = trained
    again = evaluate_recommender(str(folder), shop_splits())
    assert list(again) == list(results)
    for metric in ("ndcg@10", "hr@10", "mrr", "coverage@10"):
        assert [row[metric] for row in again.values()] == pytest.approx([row[metric] for row in results.values()])
    with_seen = evaluate_recommender(str(folder), shop_splits(), exclude_seen=False, batch_size=7)
    assert with_seen["recommender"]["mrr"] != again["recommender"]["mrr"]


def test_a_session_through_the_cache_of_a_saved_model_is_the_whole_history(trained):
    folder, _ = trained
    assert "use_cache" not in json.loads((folder / "config.json").read_text())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    items = torch.tensor([tokenizer.encode(["sku-001", "sku-002", "sku-010", "sku-011", "sku-012"])])
    with torch.inference_mode():
        whole = model(items, use_cache=False).logits
        cache = None
        for place in range(items.shape[1]):
            step = model(items[:, place : place + 1], cache=cache)
            cache = step.cache
            torch.testing.assert_close(step.logits[:, -1], whole[:, place])
    assert cache.get_seq_length() == items.shape[1]


@pytest.mark.usefixtures("no_plot")
def test_a_seed_gives_the_run_again_to_the_bit(tmp_path):
    options = {"save_strategy": "no", "load_best_model_at_end": False}
    results = {
        name: train_recommender(shop_splits(), arguments(tmp_path / name, seed=seed, **options), **SMALL)[name]
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    }
    one, same, other = (load_file(tmp_path / name / "model.safetensors") for name in results)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["scores.bias"], other["scores.bias"])
    metrics = ("loss", "mrr", "ndcg@10", "novelty@10")
    assert [results["one"][metric] for metric in metrics] == [results["same"][metric] for metric in metrics]


@pytest.mark.usefixtures("no_plot")
@pytest.mark.parametrize("is_decoder", [False, True], ids=["cloze", "next-item"])
def test_where_seen_items_are_ranked_a_model_learns_when_people_come_back(is_decoder, tmp_path):
    splits = leave_one_out(build_sequences(cycles_log()))
    config = {"is_decoder": is_decoder, "hidden_size": 16, "exclude_seen": False}
    results = train_recommender(splits, steps(tmp_path / "model", 60), config=config, max_length=12)
    assert results["model"]["ndcg@10"] > results["last-item Markov"]["ndcg@10"]
    model, _ = load_model(str(tmp_path / "model"))
    assert (model.scores.repeat_bias.bias > 0).nonzero()[:, 0].tolist() == [2, 5, 8]  # steps back from the last item
    assert "items of the user's history not excluded" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.usefixtures("no_plot")
def test_fine_tuning_starts_from_a_saved_model_and_adds_new_items(trained, tmp_path):
    first = str(trained[0])
    few = leave_one_out(build_sequences(shop_log(num_users=40, seed=5)[0]))
    before = load_file(trained[0] / "model.safetensors")
    train_recommender(few, arguments(tmp_path / "second", learning_rate=0.0), model_name_or_path=first)
    after = load_file(tmp_path / "second" / "model.safetensors")
    assert all(torch.equal(before[key], after[key][: len(before[key])]) for key in before)

    known, grown = ({*ItemTokenizer.from_pretrained(folder).get_vocab()} for folder in (first, tmp_path / "second"))
    assert grown - known == {*shop_log(num_users=40, seed=5)[0]["item_id"].to_pylist()} - known != set()

    args = arguments(tmp_path / "third", learning_rate=0.0)
    changed = {"is_decoder": False, "hidden_dropout_prob": 0.5}
    train_recommender(few, args, model_name_or_path=first, config=changed)
    config = Bert4RecConfig.from_pretrained(tmp_path / "third")
    assert (config.is_decoder, config.hidden_dropout_prob) == (False, 0.5)
    assert config.architectures == ["Bert4RecForMaskedLM"]
    after = load_file(tmp_path / "third" / "model.safetensors")
    assert all(torch.equal(before[key], after[key][: len(before[key])]) for key in before)

    args = arguments(tmp_path / "fourth", learning_rate=0.1, warmup_steps=0)
    train_recommender(few, args, model_name_or_path=first)
    after = load_file(tmp_path / "fourth" / "model.safetensors")
    assert not torch.equal(before["scores.bias"], after["scores.bias"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"hidden_size": 8}}, "hidden_size=16, which cannot be changed"),
        ({"max_length": 32}, "max_position_embeddings=16, which cannot be changed"),
        ({"request_columns": ["time_gap"]}, "request_columns.*new model"),
        ({"event_columns": ["rating"]}, "event_columns.*new model"),
    ],
)
def test_options_of_a_new_model_are_refused_for_a_saved_one(trained, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train_recommender(shop_splits(), arguments(tmp_path / "x"), model_name_or_path=str(trained[0]), **options)
    assert not list((tmp_path / "x").glob("*.json"))


def test_a_finished_run_is_pushed_when_it_is_called_again(trained, monkeypatch):
    folder, results = trained
    pushed = []
    monkeypatch.setattr(
        "hf_rec.training.run.push_recommender", lambda *given, **options: pushed.append((given, options))
    )
    monkeypatch.setattr("transformers.Trainer.init_hf_repo", lambda _: pytest.fail("a Trainer was made"))
    args = arguments(folder, push_to_hub=True, hub_model_id="shop/recommender", hub_private_repo=True)
    assert train_recommender(shop_splits(), args, origin=Origin("a test log"), **SMALL).keys() == results.keys()
    assert pushed == [((folder, "shop/recommender"), {"private": True, "token": None})]


def test_a_table_of_items_that_a_saved_model_does_not_read_is_refused(trained, tmp_path):
    items = pa.table({"item_id": ["sku-001"], "title": ["Tea"]})
    with pytest.raises(ValueError, match="reads and keeps no columns of items"):
        train_recommender(shop_splits(), arguments(tmp_path / "x"), model_name_or_path=str(trained[0]), items=items)


@pytest.mark.usefixtures("no_plot")
def test_a_run_is_made_of_the_parts_that_are_given(tmp_path):
    class Doubled(torch.nn.Linear):
        def forward(self, states):
            return super().forward(states) + states

    class LastItem(RecommendationCollator):
        def next_items(self, input_ids, **_):
            labels = super().next_items(input_ids)["labels"]
            return {"labels": labels.masked_fill(torch.arange(labels.shape[1]) < labels.shape[1] - 1, -100)}

    class Watched(RecommendationTrainer):
        def compute_loss(self, model, inputs, *others, **options):
            watched.append((type(model.model.final_norm), (inputs["labels"] != -100).sum(1).max().item()))
            return super().compute_loss(model, inputs, *others, **options)

    def build_model(config):
        model = OURS.build_model(config)
        model.model.final_norm = Doubled(config.hidden_size, config.hidden_size)
        model.init_weights()
        return model

    watched = []
    hooks = Hooks(build_model, LastItem, Watched)
    train_recommender(shop_splits(), steps(tmp_path / "model", 2), hooks=hooks, **SMALL)
    assert watched == [(Doubled, 1)] * len(watched) and watched
    weight = load_file(tmp_path / "model" / "model.safetensors")["model.final_norm.weight"]
    assert weight.shape == (16, 16) and weight.std().item() == pytest.approx(16**-0.5, rel=0.3)


@pytest.mark.parametrize(
    ("hooks", "options", "message"),
    [
        (Hooks(build_model=print), {"model_name_or_path": "saved"}, "build_model builds new models"),
        (Hooks(trainer=Trainer), {"teachers": ["teacher"]}, "teachers need the Trainer of distillation"),
    ],
)
def test_hooks_that_a_run_would_not_use_are_refused(tmp_path, hooks, options, message):
    with pytest.raises(ValueError, match=message):
        train_recommender(shop_splits(), arguments(tmp_path / "x"), hooks=hooks, **options)


def test_other_content_in_the_output_directory_is_an_error_and_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty.*--output_dir"):
        train_recommender(shop_splits(), arguments(tmp_path), **SMALL)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a model of type 'bert'"):
        train_recommender(shop_splits(), arguments(tmp_path), **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "thesis.txt"]


def test_another_catalogue_in_the_folder_of_a_run_is_an_error(trained):
    other = leave_one_out(build_sequences(table_of([("u", item, time) for time, item in enumerate("abcd")])))
    before = sorted(trained[0].iterdir())
    with pytest.raises(ValueError, match="another run.*--output_dir"):
        train_recommender(other, arguments(trained[0]), **SMALL)
    assert sorted(trained[0].iterdir()) == before


@pytest.mark.usefixtures("no_plot")
def test_the_card_shows_a_history_with_all_that_the_model_reads(tmp_path):
    log = shop_log(num_users=40)[0]
    log = log.append_column("rating", pa.array([place % 3 for place in range(len(log))]))
    splits = leave_one_out(build_sequences(log, event_columns=["rating"]))
    args = arguments(tmp_path / "model", num_train_epochs=1)
    columns = {"event_columns": ["rating"], "request_columns": ["time_gap"]}
    train_recommender(splits, args, origin=Origin(split="temporal"), **columns, **SMALL)
    card = (tmp_path / "model" / "README.md").read_text()
    example = ast.literal_eval(re.search(r"^recommend\((.*), top_k=5\)", card, re.MULTILINE)[1])
    assert example.keys() == {"item_ids", "timestamps", "rating", "request"}
    assert example["request"].keys() == {"time"}
    assert "rating (event)" in card and "time_gap (request)" in card and "temporal" in card
    recommend = pipeline("recommendation", model=str(tmp_path / "model"))
    assert len(recommend(example, top_k=5)) == 5
    tokenized = tokenize_splits(splits, recommend.tokenizer, recommend.model.config.features)
    assert len(tokenized["test"]["event_features"][0][0]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "vocab_size"), [("ml-100k", 1685), ("amazon-beauty", 12104)])
def test_real_data_trains_to_better_than_the_baselines(real_data, tmp_path, name, vocab_size):
    splits = leave_one_out(build_sequences(real_data / name / "interactions.parquet"))
    args = RecommendationTrainingArguments(
        str(tmp_path / name), max_steps=300, eval_steps=0.5, save_steps=0.5, disable_tqdm=True
    )
    results = train_recommender(splits, args, config={"is_decoder": True}, max_length=50)
    assert results[name]["ndcg@10"] > 1.5 * results["popularity"]["ndcg@10"]
    assert Bert4RecConfig.from_pretrained(tmp_path / name).vocab_size == vocab_size
