"""A trained recommender becomes smaller and stays a recommender."""

import copy
import sys

import pyarrow.parquet
import pytest
import torch
from runs import SMALL, shop_splits, steps
from transformers import pipeline

from hf_rec.cli.main import main
from hf_rec.compression import compress, prune, quantize_items, quantize_layers
from hf_rec.compression.compress import importance_on
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.data.demo_log import shop_log
from hf_rec.evaluation import evaluate
from hf_rec.hub import save_recommender
from hf_rec.model.rules import parse_rules
from hf_rec.serving import OnnxRecommendationPipeline, export_recommender
from hf_rec.training import create_model, fit, load_model

SMALLER = {"num_attention_heads": 1, "intermediate_size": 8, "item_codes": 8, "item_code_bits": 4, "int8_layers": True}
FLAGS = ["--num_attention_heads", "1", "--intermediate_size", "8", "--item_codes", "8", "--item_code_bits", "4"]
HISTORIES = [["sku-012", "sku-017"], ["sku-001"], []]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A model that was trained for a moment, its tokenizer and its tokenized splits."""
    splits = shop_splits()
    torch.manual_seed(0)
    model, tokenizer = create_model(splits, SMALL["config"] | {"use_repeat_bias": True}, SMALL["max_length"])
    tokenized = tokenize_splits(splits, tokenizer)
    fit(model, tokenizer, tokenized, steps(tmp_path_factory.mktemp("run"), 20))
    return model.eval(), tokenizer, tokenized


@pytest.fixture(scope="module")
def folder(shop, tmp_path_factory):
    """That model in `given`, with a rule, beside its log."""
    root = tmp_path_factory.mktemp("shop")
    model, tokenizer, _ = shop
    ruled = copy.deepcopy(model)
    ruled.rules = parse_rules([{"rule": "deny", "where": {"items": ["sku-000"]}}])
    save_recommender(root / "given", ruled, tokenizer)
    pyarrow.parquet.write_table(shop_log(120)[0], root / "log.parquet")
    return root


def same_weights(one, other) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(tensor, copied) for (name, tensor), (again, copied) in pairs)


def test_without_training_it_prunes_and_quantises(shop):
    model, tokenizer, tokenized = shop
    before = copy.deepcopy(model)
    small = compress(model, tokenizer, tokenized, **SMALLER)
    importance = importance_on(model, tokenized["train"])
    expected = quantize_layers(quantize_items(prune(model, importance, 1, 8), 8, 4))
    assert same_weights(small, expected)
    assert small.config.to_dict() == expected.config.to_dict()
    assert same_weights(model, before) and model.config.to_dict() == before.config.to_dict()


def test_training_makes_up_for_some_of_the_loss_and_leaves_the_given_model(shop, tmp_path):
    model, tokenizer, tokenized = shop
    before = copy.deepcopy(model)
    plain = compress(model, tokenizer, tokenized, **SMALLER)
    trained = compress(model, tokenizer, tokenized, steps(tmp_path, 20, learning_rate=3e-3), **SMALLER)
    loss = {
        name: evaluate(one, tokenized, split="validation")["loss"] for name, one in (("plain", plain), ("t", trained))
    }
    assert loss["t"] < loss["plain"]
    assert torch.equal(trained.items.id_embeddings.packed, plain.items.id_embeddings.packed)
    assert same_weights(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_pruning_needs_a_log(shop):
    model, tokenizer, _ = shop
    with pytest.raises(ValueError, match="give a log"):
        compress(model, tokenizer, num_hidden_layers=1)


@pytest.mark.parametrize("exported", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["folder", "export"])
def test_what_the_command_writes_recommends_from_smaller_files(folder, tmp_path, capsys, exported):
    log = ["--train_file", str(folder / "log.parquet"), "--fine_tune", "false", "--disable_tqdm", "true"]
    arguments = [*FLAGS, "--int8_layers", "--dtype", "float16", *log]
    given, small = folder / "given", tmp_path / "small"
    main(["compress", "--model_name_or_path", str(given), "--output_dir", str(small), *arguments])
    sizes = [(path / "model.safetensors").stat().st_size for path in (given, small)]
    printed = capsys.readouterr().out
    assert f"{sizes[1]:,} bytes" in printed and "small: validation ndcg@10" in printed
    assert sizes[0] > 2 * sizes[1]
    recommend = pipeline("recommendation", model=str(tmp_path / "small"))
    assert recommend.model.dtype == torch.float32 and len(recommend.model.rules) == 1
    lists = recommend(HISTORIES, top_k=5)
    assert [len(ranked) for ranked in lists] == [5, 5, 5]
    assert "sku-000" not in {entry["item_id"] for ranked in lists for entry in ranked}
    if exported:
        export_recommender(tmp_path / "small", tmp_path / "exported", top_k=20)
        fast = OnnxRecommendationPipeline.from_pretrained(tmp_path / "exported", intra_op_num_threads=1)
        for one, other in zip(fast(HISTORIES, top_k=5), lists, strict=True):
            assert [entry["item_id"] for entry in one] == [entry["item_id"] for entry in other]
            scores = [[entry["score"] for entry in ranked] for ranked in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_the_command_trains_and_does_not_replace_a_model(folder, tmp_path, capsys):
    base = ["compress", "--model_name_or_path", str(folder / "given"), "--output_dir", str(tmp_path / "small")]
    log = [
        "--train_file",
        str(folder / "log.parquet"),
        "--max_steps",
        "2",
        "--disable_tqdm",
        "true",
        "--use_cpu",
        "true",
    ]
    main([*base, "--item_codes", "8", "--item_code_bits", "4", *log])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]
    before = (tmp_path / "small" / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="holds a model; give another --output_dir"):
        main([*base, "--dtype", "bfloat16"])
    assert (tmp_path / "small" / "model.safetensors").read_bytes() == before
    main([*base, "--dtype", "bfloat16", "--overwrite_output_dir"])
    assert len((tmp_path / "small" / "model.safetensors").read_bytes()) != len(before)
    assert "bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--filter", "x > 1"], "--filter"),
        (["--split", "temporal"], "--split"),
        (["--max_steps", "7"], "--max_steps"),
        (["--teacher_weight", "0.5"], "--teacher_weight"),
        (["--train_file", "LOG", "--no_fine_tune", "--max_steps", "7"], "--max_steps"),
        (["--item_code_bits", "4"], "--item_code_bits needs --item_codes"),
        (["--push_to_hub"], "push the small folder"),
    ],
)
def test_what_a_compression_would_not_read_is_refused(folder, tmp_path, options, named):
    options = [str(folder / "log.parquet") if option == "LOG" else option for option in options]
    base = ["compress", "--model_name_or_path", str(folder / "given"), "--output_dir", str(tmp_path / "small")]
    with pytest.raises(SystemExit, match=named):
        main([*base, *options])
    assert not (tmp_path / "small").exists()


def test_the_command_ranks_seen_items_on_request_and_refuses_what_it_does_not_read(folder, tmp_path, capsys):
    base = ["compress", "--model_name_or_path", str(folder / "given"), "--output_dir", str(tmp_path / "small")]
    base += ["--train_file", str(folder / "log.parquet"), "--no_fine_tune", "--dtype", "bfloat16"]
    with pytest.raises(SystemExit, match=r"\['--hold_out_items'\] are not read here"):
        main([*base, "--hold_out_items", "0.1"])
    main([*base, "--include_seen"])
    model, tokenizer = load_model(str(tmp_path / "small"))
    assert not model.config.exclude_seen
    splits = leave_one_out(build_sequences(str(folder / "log.parquet")))
    found = evaluate(model, tokenize_splits(splits, tokenizer))["ndcg@10"]
    assert f"test ndcg@10 {found:.4f}" in capsys.readouterr().out.splitlines()[-1]


def test_without_faiss_the_error_names_the_extra(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"hf_rec\[compression\]"):
        quantize_items(shop[0], 8, 4)
