"""Items that a trained model has not seen."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from runs import ITEMS, SIZES, shop_splits, steps

from hf_rec import RecommendationPipeline
from hf_rec.data import build_sequences, hold_out_items, leave_one_out, tokenize_splits
from hf_rec.training import add_items, create_model, fit, train_recommender

NEW = ["sku-390", "sku-391", "sku-392"]
ORDER = ["sku-001", "sku-002", *NEW, "sku-003", "sku-004"]


def new_recommender(item_columns=("brand", "text"), **config):
    torch.manual_seed(0)
    items = ITEMS if item_columns else None
    model, tokenizer = create_model(
        shop_splits(), SIZES | {"is_decoder": True, **config}, 16, items=items, item_columns=item_columns
    )
    torch.nn.init.normal_(model.scores.bias)
    return model.eval(), tokenizer


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("start", ["content", "similar", "mean"])
def test_old_items_keep_their_scores_and_new_ones_start_as_told(start, tied):
    model, tokenizer = new_recommender(tie_word_embeddings=tied)
    ids = torch.tensor([[5, 9, 4]])
    before, old = model(ids).logits, len(tokenizer)
    tables = [table.all_items().clone() for table in model.tables]
    assert add_items(model, tokenizer, [*NEW, "sku-001", NEW[0]], ITEMS, start=start) == NEW
    after = model(ids).logits
    assert after.shape[-1] == len(tokenizer) == model.config.vocab_size == old + 3
    assert torch.equal(after[..., :old], before)
    assert tokenizer.convert_tokens_to_ids(NEW) == [old, old + 1, old + 2]
    for table, vectors in zip(model.tables, tables, strict=True):
        content, weight = table.content(), table.id_embeddings.weight
        assert torch.equal(table.all_items()[:old], vectors)
        assert content[old:].abs().sum(-1).min() > 0
        if start == "content":
            expected = torch.zeros(3, 16)
        elif start == "mean":
            expected = weight[3:old].mean(0).expand(3, -1)
        else:
            expected = torch.stack(
                [nearest_ids(content[item], content[3:old], weight[3:old]) for item in (-3, -2, -1)]
            )
        torch.testing.assert_close(weight[old:], expected)
    torch.testing.assert_close(model.scores.bias[old:], model.scores.bias[3:old].mean().expand(3))


def nearest_ids(content: torch.Tensor, others: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The mean of the ids of the 30 nearest, each with the weight exp(50 cosine)."""
    cosines = [torch.cosine_similarity(content, other, dim=0).item() for other in others]
    nearest = sorted(range(len(others)), key=cosines.__getitem__)[-30:]
    weights = [math.exp(50 * cosines[row]) for row in nearest]
    return sum(weight * ids[row] for weight, row in zip(weights, nearest, strict=True)) / sum(weights)


@torch.no_grad()
def test_a_new_item_of_which_nothing_is_known_starts_at_the_mean():
    model, tokenizer = new_recommender(("text",))
    items = pa.table({"item_id": NEW, "text": pa.array([None] * 3, ITEMS.schema.field("text").type)})
    add_items(model, tokenizer, NEW, items)
    weight = model.items.id_embeddings.weight
    torch.testing.assert_close(weight[-3:], weight[3:-3].mean(0).expand(3, -1))


def test_a_grown_model_is_saved_opened_and_trained_further(tmp_path):
    model, tokenizer = new_recommender()
    add_items(model, tokenizer, NEW, ITEMS)
    model.save_pretrained(tmp_path / "grown")
    loaded = type(model).from_pretrained(tmp_path / "grown").eval()
    ids = torch.tensor([[len(tokenizer) - 1, 5]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    log = [(f"u{user}", item, time) for user in range(30) for time, item in enumerate(ORDER)]
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*log, strict=True), strict=True)))
    tokenized = tokenize_splits(leave_one_out(build_sequences(table)), tokenizer)
    fit(loaded, tokenizer, tokenized, steps(tmp_path / "run", 60, load_best_model_at_end=False))
    recommend = RecommendationPipeline(loaded, tokenizer)
    assert [entry["item_id"] for entry in recommend(["sku-001", "sku-002", NEW[0]], top_k=1)] == [NEW[1]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": "luck"}, r"\('content', 'similar', 'mean'\), got 'luck'"),
        ({"items": None}, r"\['brand', 'text'\]"),
        ({"item_ids": ["a", None]}, "1 of 2 new item ids are missing"),
        ({"item_ids": ["a", "[MASK]"]}, r"\['\[MASK\]'\].*special tokens"),
        ({"items": ITEMS.drop_columns("brand")}, r"no column \['brand'\]"),
    ],
)
def test_what_cannot_be_added_is_an_error_and_changes_nothing(given, message):
    model, tokenizer = new_recommender()
    with pytest.raises(ValueError, match=message):
        add_items(model, tokenizer, **({"item_ids": NEW, "items": ITEMS} | given))
    assert len(tokenizer) == model.config.vocab_size == len(model.scores.bias)


def test_a_model_without_content_starts_new_items_at_the_mean():
    model, tokenizer = new_recommender(())
    with pytest.raises(ValueError, match="start='content'.*start='mean'"):
        add_items(model, tokenizer, NEW, start="content")
    assert add_items(model, tokenizer, NEW) == NEW
    assert torch.equal(model.items.id_embeddings.weight[-1], model.items.id_embeddings.weight[-2])
    assert add_items(model, tokenizer, NEW) == []


def colour_log(num_users: int = 400, colours: int = 12, shades: int = 8) -> tuple[pa.Table, pa.Table]:
    """Users who go from colour to colour, each time to any shade that is sold; the last shades are sold late."""
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        colour = int(rng.integers(colours))
        for place in range(8):
            sold = shades if user >= num_users * 3 // 4 else shades - 2
            rows.append((f"u{user}", f"{colour}-{rng.integers(sold)}", 1_000 * user + place))
            colour = (colour + 1) % colours
    log = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True)))
    names = [f"{colour}-{shade}" for colour in range(colours) for shade in range(shades)]
    return log, pa.table({"item_id": names, "colour": [name.split("-")[0] for name in names]})


def test_new_items_are_recommended_from_their_content(tmp_path):
    log, items = colour_log()
    splits = leave_one_out(build_sequences(log))
    options = {"max_length": 16, "config": SIZES | {"is_decoder": True}, "hold_out": 0.25, "patience": None}
    args = steps(tmp_path / "colours", 150)
    results = train_recommender(splits, args, items=items, item_columns=["colour"], **options)
    assert list(results) == ["popularity", "last-item Markov", "random", "content_nearest", "colours"]
    model = results["colours"]
    assert model["cold_targets"] + model["warm_targets"] == len(splits["test"]) and model["cold_targets"] > 30
    # A list has room for the 8 shades of the next colour; the others cannot know which of 12 colours comes next.
    assert model["cold_hr@10"] > 0.8 and model["warm_hr@10"] > 0.8
    assert max(row["cold_hr@10"] for name, row in results.items() if name != "colours") < 0.3
    plain = train_recommender(splits, steps(tmp_path / "plain", 150), **options)
    assert plain["plain"]["cold_hr@10"] < 0.3


def test_the_newest_items_are_held_out_of_training_and_validation():
    log, _ = colour_log(num_users=40)
    splits = leave_one_out(build_sequences(log))
    left, held_out = hold_out_items(splits, 0.25)
    first = {}
    for item, time in sorted(
        zip(*(log[name].to_pylist() for name in ("item_id", "timestamp")), strict=True), key=lambda row: row[1]
    ):
        first.setdefault(item, time)
    newest = sorted(first, key=first.get)[-round(len(first) / 4) :]
    assert sorted(held_out) == sorted(newest)
    for name, split in left.items():
        expected = []
        for row in splits[name]:
            kept = [place for place, item in enumerate(row["item_ids"]) if item not in newest]
            if kept and row.get("target_id") not in newest:
                expected.append(
                    row | {column: [row[column][place] for place in kept] for column in ("item_ids", "timestamps")}
                )
        assert split.to_list() == expected
    for share in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match=f"got {share}"):
            hold_out_items(splits, share)
    with pytest.raises(ValueError, match="nothing is left of the"):
        hold_out_items(splits, 0.999)


def test_a_new_item_is_read_with_the_separator_of_the_first_ones():
    """Alone, its only text would be taken for two categories."""
    log = pa.table({"user_id": ["u"] * 4, "item_id": [*"abcd"], "timestamp": [1, 2, 3, 4]})
    items = pa.table({"item_id": [*"abcd"], "genres": ["Crime|Drama", "Action, Adventure", "Crime", None]})
    splits = leave_one_out(build_sequences(log))
    sizes = {"is_decoder": True, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    model, tokenizer = create_model(splits, sizes, 4, items=items, item_columns=["genres:bag"])
    (feature,) = model.config.item_features
    assert feature.separator == "|" and "Action, Adventure" in feature.values
    add_items(model, tokenizer, ["e"], pa.table({"item_id": ["e"], "genres": ["Action, Adventure"]}))
    (same,) = model.config.item_features
    assert same.values == feature.values
    codes = [table.content.codes for table in model.tables if table.content is not None][0]
    codes = model.items.content.codes
    old, new = (codes[tokenizer.convert_tokens_to_ids(item)].tolist() for item in "be")
    assert old == new
