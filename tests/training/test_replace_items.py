"""A trained model for the catalogue of another shop."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from runs import SIZES, as_table, shop_splits, steps

from hf_rec import Bert4RecConfig, ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.evaluation import evaluate
from hf_rec.training import add_items, create_model, fit, remove_items, replace_items

COLUMNS = ["brand", "price", "text"]
TEXTS = np.random.default_rng(0).normal(size=(400, 4)).tolist()
ITEMS = pa.table(
    {
        "item_id": [f"sku-{number:03}" for number in range(400)],
        "brand": [f"brand {number % 7}" for number in range(400)],
        "price": [float(number) for number in range(400)],
        "text": TEXTS,
    }
)
# Another shop: the same things by other names, and one of a brand and without a text.
OTHER = pa.table(
    {
        "item_id": ["[MASK]", "b", "sku-003", "d"],
        "brand": ["brand 2", "brand 5", "brand 0", "brand new"],
        "price": [9.0, 12.0, 7.0, None],
        "text": [TEXTS[9], TEXTS[12], TEXTS[7], None],
    }
)
SAME = ["sku-009", "sku-012", "sku-007"]


@torch.no_grad()
def recommender(tied=True, item_columns=COLUMNS, **config):
    torch.manual_seed(0)
    fields = SIZES | {"is_decoder": True, "tie_word_embeddings": tied, **config}
    items = ITEMS if item_columns else None
    model, tokenizer = create_model(shop_splits(), fields, 16, items=items, item_columns=item_columns)
    for name, weights in model.named_parameters():
        if "bias" in name or "content" in name:
            torch.nn.init.normal_(weights, std=0.3)
    for table in model.tables:
        if table.content is not None:
            table.content.embeddings.weight[0] = 0.0
    return model.eval(), tokenizer


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_the_new_items_have_the_content_of_the_same_things_and_nothing_of_the_old_ids(tied):
    model, tokenizer = recommender(tied, removed_ids=[4])
    same = torch.tensor(tokenizer.convert_tokens_to_ids(SAME))
    content = [table.content()[same].clone() for table in model.tables]
    special = [table.id_embeddings.weight[:3].clone() for table in model.tables]
    bias, own = model.scores.bias[3:].mean(), model.scores.bias[:3].clone()
    kept = {name: value.clone() for name, value in model.state_dict().items() if "layers" in name or "norm" in name}
    replaced = replace_items(model, tokenizer, OTHER["item_id"], OTHER)
    assert replaced.item_ids.to_pylist() == [None, None, None, "[MASK]", "b", "sku-003", "d"]
    assert len(tokenizer) > 7 and model.config.vocab_size == len(replaced) == 7
    assert model.config.removed_ids is None and replaced.model_max_length == 16
    for table, vectors, first in zip(model.tables, content, special, strict=True):
        torch.testing.assert_close(table.all_items()[3:6], vectors)
        assert torch.equal(table.id_embeddings.weight[:3], first)
        assert not table.id_embeddings.weight[3:].any()
        assert table.content.known.tolist() == [False] * 3 + [True] * 4
        assert not table.content()[6].any()  # its brand is new, its price and text are missing
    assert [*model.config.item_features[0].values] == [*(f"brand {number}" for number in range(7)), "brand new"]
    torch.testing.assert_close(model.scores.bias, torch.cat([own, bias.expand(4)]))
    assert kept and all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
    # The order of the lists is that of the old model with only these three items, by their content alone.
    found = model(torch.tensor([[3, 4]])).logits[0, -1, 3:6]
    old, _ = recommender(tied)
    for table in old.tables:
        table.id_embeddings.weight[3:] = 0.0
    expected = old(same[None, :2]).logits[0, -1, same] - old.scores.bias[same]
    torch.testing.assert_close(found - bias, expected)


def test_a_model_with_other_items_is_saved_opened_trained_and_grown(tmp_path):
    model, tokenizer = recommender()
    tokenizer = replace_items(model, tokenizer, OTHER["item_id"].slice(0, 3), OTHER)
    add_items(model, tokenizer, ["d"], OTHER)
    remove_items(model, tokenizer, ["b"])
    model.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model").eval()
    ids = torch.tensor([[3, 6, 5]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    order = ["[MASK]", "sku-003", "d"]
    log = as_table([(f"u{user}", order[(user + time) % 3], time) for user in range(30) for time in range(6)])
    tokenized = tokenize_splits(leave_one_out(build_sequences(log)), tokenizer)
    fit(loaded, tokenizer, tokenized, steps(tmp_path / "run", 60, load_best_model_at_end=False))
    loaded.config.exclude_seen = False
    assert evaluate(loaded, tokenized)["ndcg@5"] > 0.95


@pytest.mark.parametrize(
    ("columns", "items", "message"),
    [
        ((), OTHER, r"the model reads \[\] and a table was given"),
        (COLUMNS, None, r"\['brand', 'price', 'text'\] and no table was given"),
        (COLUMNS, OTHER.drop_columns("price"), r"no column \['price'\]"),
        (COLUMNS, OTHER.set_column(3, "text", [[[1.0], [2.0], None, None]]), "vectors of 4 numbers, got 1"),
    ],
)
def test_what_cannot_be_replaced_is_an_error_and_changes_nothing(columns, items, message):
    model, tokenizer = recommender(item_columns=columns)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        replace_items(model, tokenizer, OTHER["item_id"], items)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert model.config.vocab_size == len(tokenizer)


def colour_shop(name: str, num_users: int, shades: int, colours: int = 12) -> tuple[pa.Table, pa.Table]:
    """Users who go from colour to colour, each time to any shade; item ids are those of the shop."""
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        start = int(rng.integers(colours))
        rows += [(f"u{user}", f"{name}-{(start + time) % colours}-{rng.integers(shades)}", time) for time in range(8)]
    ids = [f"{name}-{colour}-{shade}" for colour in range(colours) for shade in range(shades)]
    return as_table(rows), pa.table({"item_id": ids, "colour": [name.split("-")[1] for name in ids]})


def test_what_one_shop_taught_helps_in_another(tmp_path):
    files = {}
    for name, users, shades in (("large", 400, 6), ("small", 30, 8)):
        for kind, table in zip(("log", "items"), colour_shop(name, users, shades), strict=True):
            files[name, kind] = str(tmp_path / f"{name}-{kind}.parquet")
            pyarrow.parquet.write_table(table, files[name, kind])
    few = ["--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", "64"]
    few += [
        "--gradient_accumulation_steps",
        "1",
        "--eval_steps",
        "0.5",
        "--save_steps",
        "0.5",
        "--learning_rate",
        "1e-2",
    ]
    new = ["--item_columns", "colour", "--max_length", "16", "--hidden_size", "16", "--intermediate_size", "32"]

    def train(shop: str, name: str, *options: str) -> dict:
        data = ["--train_file", files[shop, "log"], "--items_file", files[shop, "items"]]
        main(["train", *data, "--output_dir", str(tmp_path / name), *few, *options])
        return json.loads((tmp_path / name / "all_results.json").read_text())

    train("large", "large-shop", *new, "--max_steps", "150")
    source = ["--model_name_or_path", str(tmp_path / "large-shop"), "--replace_items"]
    moved = train("small", "moved", *source, "--max_steps", "10")
    assert moved["test_hr@10"] > 0.8 > 0.5 > train("small", "alone", *new, "--max_steps", "10")["test_hr@10"]
    sold = {*colour_shop("small", 30, 8)[0]["item_id"].to_pylist()}
    assert {*ItemTokenizer.from_pretrained(tmp_path / "moved").get_vocab()} == sold | {"[PAD]", "[UNK]", "[MASK]"}
    assert Bert4RecConfig.from_pretrained(tmp_path / "moved").vocab_size == 3 + len(sold)
    for options in (["--replace_items"], ["--remove_items", "x"]):
        with pytest.raises(SystemExit, match="option of a saved model"):
            train("small", "wrong", *options)
