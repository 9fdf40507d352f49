"""Categories that a trained model has not seen."""

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from runs import SIZES, as_table

from hf_rec import Bert4RecConfig, Feature
from hf_rec.cli.main import main
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.training import add_items, create_model
from hf_rec.training.categories import extend_event_categories, extend_feature

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "brand": ["x", "y", "x", "new", None],
        "tags": [["p"], ["q"], ["p"], ["r", "q", "p"], ["s"]],
        "size": ["1", "2", "3", "9", "2"],
    }
)


def splits_of(items="abc", countries=("FR", "DE")):
    rows = [
        (f"u{user}", items[(user + time) % len(items)], time, countries[(user * time) % len(countries)])
        for user in range(12)
        for time in range(5)
    ]
    return leave_one_out(build_sequences(as_table(rows, "country"), event_columns=["country"]))


@torch.no_grad()
def recommender(tied=True):
    torch.manual_seed(0)
    config = SIZES | {"is_decoder": True, "tie_word_embeddings": tied}
    columns = {"event_columns": ["country"], "request_columns": ["country"]}
    model, tokenizer = create_model(
        splits_of(), config, 16, **columns, items=ITEMS, item_columns=["brand", "tags", "size"]
    )
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight[module.padding_idx] = 0.0
    return model.eval(), tokenizer


@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        (Feature("f", "category", values=["b", "a"]), ["c", "a", None, "0"], ["b", "a", "0", "c"]),
        (Feature("f", "bag", at="item", values=["b"], width=2), [["a", "b", "c"], None], ["b", "a", "c"]),
        (Feature("f", "number", edges=[1.0]), [5.0, 7.0], ()),
        (Feature("f", "vector", at="item", width=2, components=1), [[1.0, 2.0, 3.0]], ()),
        (Feature("f", "hour"), (), ()),
    ],
)
def test_new_categories_come_after_the_old_ones_and_nothing_else_changes(feature, values, expected):
    found = extend_feature(feature, values)
    assert list(found.values) == list(expected)
    assert (found.edges, found.components) == (feature.edges, feature.components)
    assert found.width == (3 if feature.kind == "bag" else feature.width)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_items_with_new_categories_leave_the_content_of_the_others_as_it_was(tied):
    model, tokenizer = recommender(tied)
    before = [table.content().clone() for table in model.tables]
    codes = [table.content.codes[3:].clone() for table in model.tables]
    ids = torch.tensor([[3, 5, 4]])
    scores = model(ids).logits
    add_items(model, tokenizer, ["d", "e"], ITEMS)
    assert [list(feature.values) for feature in model.config.item_features] == [
        ["x", "y", "new"],
        ["p", "q", "r", "s"],
        ["1", "2", "3", "9"],
    ]
    torch.testing.assert_close(model(ids).logits[..., :6], scores)
    for table, content, code in zip(model.tables, before, codes, strict=True):
        torch.testing.assert_close(table.content()[:6], content)
        # brand, three tags, size: a bag of one tag got two empty columns, and later codes moved up.
        names = [(row[0].item(), row[1].item(), row[2].item()) for row in code]
        assert table.content.codes[3:6].tolist() == [
            [brand, tag and tag + 1, 0, 0, size and size + 3] for brand, tag, size in names
        ]
        assert table.content.codes[6].tolist() == [3, 6, 5, 4, 11]
        weight = table.content.embeddings.weight
        assert weight[[0, 3, 6, 7, 11]].abs().sum() == 0 and (weight[[1, 2, 4, 5, 8, 9, 10]] != 0).all()
        torch.testing.assert_close(table.content()[6], (weight[4] + weight[5]) / 3)


@torch.no_grad()
def test_new_categories_of_events_are_read_as_unknown_until_they_are_learned(tmp_path):
    model, tokenizer = recommender()
    grown = splits_of(countries=("FR", "IT", "AT"))
    old = tokenize_splits(grown, tokenizer, model.config.features)["train"]["event_features"][:]
    ids = torch.tensor([[3, 5, 4]])
    score = lambda *codes: model(ids, event_features=torch.tensor([[[code, code] for code in codes]])).logits  # noqa: E731
    scores, unknown = score(1, 2, 1), score(0, 2, 0)
    extend_event_categories(model, grown["train"])
    assert [*model.config.features[0].values] == ["DE", "FR", "AT", "IT"]
    assert torch.equal(score(1, 2, 1), scores) and torch.equal(score(3, 2, 4), unknown)
    new = tokenize_splits(grown, tokenizer, model.config.features)["train"]["event_features"][:]
    assert [[row if row != [0, 0] else None for row in rows] for rows in old] == [
        [row if max(row) < 3 else None for row in rows] for rows in new
    ]
    assert {code for rows in new for row in rows for code in row} == {2, 3, 4}
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    codes = torch.tensor([[[3, 3], [4, 4], [2, 2]]])
    assert torch.equal(loaded(ids, event_features=codes).logits, score(3, 4, 2))


def test_a_fine_tuned_model_learns_the_categories_of_the_newer_log(tmp_path):
    log = {name: tmp_path / f"{name}.parquet" for name in ("old", "newer")}
    for path, countries in zip(log.values(), (("FR",), ("FR", "IT")), strict=True):
        events = [(user, time) for user in range(40) for time in range(5)]
        rows = [(f"u{user}", f"{user % 9}", time, countries[time % len(countries)]) for user, time in events]
        pyarrow.parquet.write_table(as_table(rows, "country"), path)
    tiny = ["--max_steps", "4", "--use_cpu", "--disable_tqdm", "true", "--gradient_accumulation_steps", "1"]
    new = ["--max_length", "8", "--hidden_size", "16", "--event_columns", "country"]
    main(["train", "--train_file", str(log["old"]), "--output_dir", str(tmp_path / "a"), *new, *tiny])
    more = ["--model_name_or_path", str(tmp_path / "a"), "--output_dir", str(tmp_path / "b"), *tiny]
    main(["train", "--train_file", str(log["newer"]), *more])
    assert [*Bert4RecConfig.from_pretrained(tmp_path / "b").features[0].values] == ["FR", "IT"]
    assert [*Bert4RecConfig.from_pretrained(tmp_path / "a").features[0].values] == ["FR"]
