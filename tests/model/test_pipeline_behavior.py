"""`pipeline("behavior-prediction")`: the rows of evaluation, probabilities, and what it refuses."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_classification import make_classifier
from transformers import pipeline

from hf_rec import BehaviorPredictionPipeline, Feature, ItemTokenizer
from hf_rec.data import build_sequences, histories_of, leave_one_out
from hf_rec.data.label_collator import LabelCollator
from hf_rec.data.labels import LABEL, Label, add_event_labels, tokenize_labels

FEATURES = [
    Feature("rating", "category", values=["1", "2", "3", "4", "5"]),
    Feature("country", "category", at="both", values=["de", "fr"]),
    Feature("time_gap", "time_gap", at="request"),
]
NAMES = {"id2label": {0: "no", 1: "perhaps", 2: "yes"}, "label2id": {"no": 0, "perhaps": 1, "yes": 2}}


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def predict(request, tokenizer) -> BehaviorPredictionPipeline:
    model = make_classifier(request.param, features=FEATURES, **NAMES)
    return pipeline("behavior-prediction", model=model, tokenizer=tokenizer)


@pytest.fixture
def splits():
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"item-{rng.integers(22)}", time * 7, int(rng.integers(1, 6)), rng.choice(["de", "fr"]))
        for user in range(12)
        for time in range(3 + user)
    ]
    names = ["user_id", "item_id", "timestamp", "rating", "country"]
    log = add_event_labels(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), "rating >= 4")
    return leave_one_out(build_sequences(log, event_columns=["rating", "country", LABEL]))


def test_rows_of_evaluation_are_those_of_the_pipeline(predict, splits, tokenizer):
    """Histories shorter and longer than the input, and items that the model does not know."""
    label = Label("rating >= 4", "event", ("false", "true"))
    rows = tokenize_labels(splits, tokenizer, FEATURES, label)["test"]
    histories = histories_of(splits["test"], FEATURES)
    for history, item in zip(histories, splits["test"]["target_id"], strict=True):
        history["item"] = item
    collated = LabelCollator(predict.model.config)([rows[number] for number in range(len(rows))])
    labels = collated.pop("labels")
    served = predict.preprocess(histories)
    assert len(labels) == 12 and served.pop("counts") == [None] * 12
    assert served.keys() == collated.keys()
    assert all(torch.equal(served[name], collated[name]) for name in served)

    probabilities = predict.model(**collated).logits.softmax(-1)
    for answer, expected in zip(predict(histories, top_k=None), probabilities.tolist(), strict=True):
        assert {row["label"]: row["score"] for row in answer} == pytest.approx(
            dict(zip(("no", "perhaps", "yes"), expected, strict=True)), abs=1e-5
        )
        assert [row["score"] for row in answer] == sorted((row["score"] for row in answer), reverse=True)


def test_an_item_that_the_model_does_not_know_is_reported(predict, caplog):
    answers = predict({"item_ids": ["item-1"], "items": ["tpyo", "item-2", "typo"]}, top_k=None)
    assert answers[0] == answers[2] != answers[1]
    assert "2 of 3 items are unknown to the model, such as 'tpyo'" in caplog.text


def test_top_k_may_be_given_once_for_all_calls(predict):
    opened = pipeline("behavior-prediction", model=predict.model, tokenizer=predict.tokenizer, top_k=None)
    history = {"item_ids": ["item-1"], "item": "item-2"}
    assert [len(answer) for answer in (predict(history), opened(history), opened(history, top_k=2))] == [1, 3, 2]


@pytest.mark.parametrize(("task", "label_of"), [("recommendation", "event"), ("behavior-prediction", None)])
def test_a_pipeline_refuses_the_other_kind_of_model(task, label_of, tokenizer):
    kind = {"event": "recommender", None: "classifier"}[label_of]
    with pytest.raises(ValueError, match=f"needs a {kind}, .* label_of={label_of!r}"):
        pipeline(task, model=make_classifier(True, label_of=label_of), tokenizer=tokenizer)


def test_several_items_have_the_answers_that_each_has_alone(predict):
    history = {"item_ids": ["item-1", "item-2"], "rating": [5, None], "request": {"country": "fr"}}
    items = ["item-3", "item-4", "unknown"]
    several, single = predict([history | {"items": items}, history | {"item": "item-4"}], top_k=2)
    for item, answer in zip(items, several, strict=True):
        alone = predict(history | {"item": item}, top_k=2)
        assert [row["label"] for row in alone] == [row["label"] for row in answer] and len(answer) == 2
        assert [row["score"] for row in alone] == pytest.approx([row["score"] for row in answer], abs=1e-5)
    assert [row["label"] for row in single] == [row["label"] for row in several[1]]
    assert len(predict(history | {"item": "item-4"})) == 1
    assert len(predict({"item_ids": [], "item": "item-4"}, top_k=None)) == 3


@torch.no_grad()
@pytest.mark.parametrize("label_of", ["user", "next_event"])
def test_a_label_without_a_known_item_is_read_at_a_mask(tokenizer, label_of):
    model = make_classifier(True, label_of=label_of)
    predict = pipeline("behavior-prediction", model=model, tokenizer=tokenizer)
    expected = model(torch.tensor([[4, 5, 2]])).logits.softmax(-1)[0, 1].item()
    answers = predict(["item-1", "unknown", "item-2"], top_k=None)
    assert {row["label"]: row["score"] for row in answers}["LABEL_1"] == pytest.approx(expected, abs=1e-6)
    assert len(predict([["item-1"], []])) == 2
    with pytest.raises(ValueError, match=rf"label of the {label_of}.*\['item'\]"):
        predict({"item_ids": ["item-1"], "item": "item-2"})


@torch.no_grad()
def test_a_regression_gives_its_number(tokenizer):
    model = make_classifier(False, num_labels=1, id2label={0: "price"}, problem_type="regression")
    predict = pipeline("behavior-prediction", model=model, tokenizer=tokenizer)
    expected = model(torch.tensor([[4, 5]])).logits.item()
    (answer,) = predict({"item_ids": ["item-1"], "item": "item-2"})
    assert answer == {"label": "price", "score": pytest.approx(expected, abs=1e-6)}


@torch.no_grad()
def test_several_labels_at_once_have_probabilities_of_their_own(tokenizer):
    model = make_classifier(True, num_labels=3, problem_type="multi_label_classification")
    predict = pipeline("behavior-prediction", model=model, tokenizer=tokenizer)
    expected = model(torch.tensor([[4, 5]])).logits.sigmoid()[0].tolist()
    answer = predict({"item_ids": ["item-1"], "item": "item-2"}, top_k=None)
    assert sorted(row["score"] for row in answer) == pytest.approx(sorted(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["item-1"], "'item'.*'items'.*neither"),
        ({"item_ids": ["item-1"], "item": "item-2", "items": ["item-3"]}, r"\['item', 'items'\]"),
        ({"item_ids": ["item-1"], "items": []}, "'items' is empty"),
        ({"item_ids": ["item-1"], "item": "item-2", "price": [1.0]}, "'price'"),
        ({"item_ids": ["item-1"], "item": "item-2", "request": {"rating": 1}}, "'rating'.*request"),
    ],
)
def test_what_the_model_cannot_use_is_an_error(predict, history, message):
    with pytest.raises(ValueError, match=message):
        predict(history)


def test_an_item_that_is_no_string_is_an_error(predict):
    with pytest.raises(TypeError, match="3"):
        predict({"item_ids": ["item-1"], "item": 3})
    with pytest.raises(ValueError, match="top_k .* 0"):
        predict({"item_ids": ["item-1"], "item": "item-2"}, top_k=0)


def test_broken_weights_are_an_error(predict):
    torch.nn.init.constant_(predict.model.classifier.bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        predict({"item_ids": ["item-1"], "item": "item-2"})


def test_an_unfitting_tokenizer_is_an_error():
    with pytest.raises(ValueError, match="5 tokens and the model 23"):
        pipeline(
            "behavior-prediction",
            model=make_classifier(True),
            tokenizer=ItemTokenizer.from_items(["item-1", "item-2"]),
        )
