"""The classifier: which states it reads, its losses, and what it does not read."""

import copy

import numpy as np
import pytest
import torch
from conftest import random_histories, small_model, without_dropout
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_rec import Bert4RecConfig, Bert4RecForSequenceClassification, Feature
from hf_rec.data.label_collator import LabelCollator
from hf_rec.model.inputs import build_targets

PAD = 0
FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("country", "category", at="request", values=["de", "fr"]),
    Feature("price", "number", at="both", edges=[1.0, 2.0, 3.0]),
    Feature("time_gap", "time_gap", at="request"),
]
SIZES = np.array([feature.size for feature in FEATURES for _ in range(2 if feature.at == "both" else 1)])
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def make_classifier(is_decoder: bool, **options) -> Bert4RecForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "max_position_embeddings": 8, "hidden_size": 16, "initializer_range": 0.5}
    config = Bert4RecConfig(**sizes, is_decoder=is_decoder, **({"label_of": "event"} | options))
    model = Bert4RecForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.classifier.bias)
    return model


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def classifier(request):
    return make_classifier(request.param, num_labels=3)


@pytest.mark.parametrize("is_decoder", [False, True])
@given(length=st.integers(1, 8), left=st.integers(0, 7), right=st.integers(0, 7), seed=st.integers(0, 2**16))
@settings(max_examples=30)
@torch.no_grad()
def test_the_last_item_answers_whatever_the_padding(is_decoder, length, left, right, seed):
    model = make_classifier(is_decoder)
    generator = torch.Generator().manual_seed(seed)
    history = random_histories(generator, 1, length)
    left, right = min(left, 8 - length), min(right, max(8 - length - left, 0))
    padded = torch.nn.functional.pad(history, (left, right), value=PAD)
    batch = torch.cat([random_histories(generator, 1, padded.shape[1]), padded])
    mask = (batch != PAD).long()
    expected = model.classifier(model.model(history).last_hidden_state[:, -1])[0]
    torch.testing.assert_close(model(batch, attention_mask=mask).logits[1], expected, **TOLERANCE)
    if not left and is_decoder:  # no item reads the padding on the right
        torch.testing.assert_close(model(batch).logits[1], expected, **TOLERANCE)
    if not left and not right:
        torch.testing.assert_close(
            model(inputs_embeds=model.get_input_embeddings()(history)).logits[0], expected, **TOLERANCE
        )


@pytest.mark.parametrize(
    ("options", "labels", "loss"),
    [
        ({"num_labels": 3}, torch.tensor([2, 0, -100, 1]), lambda logits, y: cross_entropy(logits, y)),
        ({"num_labels": 2}, torch.tensor([1, 0, 1, 1]), lambda logits, y: cross_entropy(logits, y)),
        (
            {"num_labels": 1},
            torch.tensor([0.5, -100.0, 3.0, -2.0]),
            lambda logits, y: mse_loss(logits[y != -100, 0], y[y != -100]),
        ),
        (
            {"num_labels": 2, "problem_type": "multi_label_classification"},
            torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
            binary_cross_entropy_with_logits,
        ),
    ],
    ids=["several", "two", "numbers", "several at once"],
)
@pytest.mark.parametrize("is_decoder", [False, True])
def test_the_loss_is_that_of_plain_pytorch(is_decoder, options, labels, loss):
    model = make_classifier(is_decoder, **options)
    inputs = random_histories(torch.Generator().manual_seed(1), 4, 6)
    inputs[1, 4:] = PAD
    outputs = model(inputs, attention_mask=(inputs != PAD).long(), labels=labels)
    torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels))
    count = int((labels != -100).sum())
    scaled = model(inputs, attention_mask=(inputs != PAD).long(), labels=labels, num_items_in_batch=2 * count)
    torch.testing.assert_close(scaled.loss, outputs.loss / 2)


def test_labels_of_several_positions_are_those_of_a_row_for_each(classifier):
    inputs = random_histories(torch.Generator().manual_seed(2), 2, 6)
    keep, labels = torch.tensor([[1, 4, 5], [3, 0, 0]]), torch.tensor([[2, -100, 1], [0, -100, -100]])
    states = classifier.model(inputs).last_hidden_state
    every = classifier(inputs, logits_to_keep=keep).logits
    expected = classifier.classifier(states.gather(1, keep.unsqueeze(-1).expand(-1, -1, 16)))
    torch.testing.assert_close(every, expected, **TOLERANCE)
    outputs = classifier(inputs, logits_to_keep=keep, labels=labels)
    torch.testing.assert_close(outputs.logits, torch.stack([every[0, 0], every[0, 2], every[1, 0]]))
    torch.testing.assert_close(outputs.loss, cross_entropy(every.flatten(0, 1), labels.flatten()))
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2,\)"):
        classifier(inputs, logits_to_keep=keep, labels=labels[:, 0])


@pytest.mark.parametrize("num_labels", [1, 3])
def test_a_batch_without_labels_learns_nothing(num_labels):
    model = make_classifier(True, num_labels=num_labels).train()
    labels = torch.full((2,), -100.0 if num_labels == 1 else -100)
    labels = labels if num_labels == 1 else labels.long()
    for loss in (
        model(torch.tensor([[3, 4], [5, 6]]), labels=labels).loss,
        model(torch.tensor([[3, 4], [5, 6]]), labels=labels[:, None], logits_to_keep=torch.zeros(2, 1).long()).loss,
    ):
        loss.backward()
        assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("is_decoder", [False, True])
def test_gradient_accumulation_changes_nothing(is_decoder, num_labels, tmp_path):
    model = make_classifier(is_decoder, num_labels=num_labels)
    kind = float if num_labels == 1 else int
    rows = [
        {"input_ids": list(range(3, 3 + length)), "labels": [-100] * (length - 1) + [kind(length % 2)]}
        for length in (2, 8, 3, 7, 5, 4, 6, 1)
    ]
    if is_decoder:
        for row in rows[::2]:
            row["labels"] = [kind(1)] * len(row["labels"])

    def weights_after_a_step(batch_size: int, accumulation: int) -> list[torch.Tensor]:
        args = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trained = without_dropout(copy.deepcopy(model))
        collator = LabelCollator(model.config, label_probability=1.0)  # no randomness
        Trainer(trained, args, train_dataset=rows, data_collator=collator).train()
        return [parameter.detach() for parameter in trained.parameters()]

    once, twice = weights_after_a_step(8, 1), weights_after_a_step(2, 4)
    moved = sum((a - b).abs().sum() for a, b in zip(once, model.parameters(), strict=True))
    assert moved > 0.5
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("is_decoder", [False, True])
@torch.no_grad()
def test_a_recommender_gives_its_encoder_and_the_auto_class_opens_what_is_saved(is_decoder, tmp_path):
    recommender = small_model(23, is_decoder, features=FEATURES)
    recommender.save_pretrained(tmp_path / "recommender")
    names = {"label_of": "event", "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "recommender", **names).eval()
    assert type(model) is Bert4RecForSequenceClassification and model.config.is_decoder == is_decoder
    for (name, weights), (other, found) in zip(
        recommender.model.named_parameters(), model.model.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(weights, found)
    model.save_pretrained(tmp_path / "classifier")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    inputs = torch.tensor([[3, 4, 5], [6, 7, 8]])
    assert torch.equal(opened(inputs).logits, model(inputs).logits)
    assert opened.config.id2label == names["id2label"] and opened.config.label_of == "event"


def random_rows(rng: np.random.Generator) -> list[dict]:
    """Labelled rows for training, shorter and longer than the input."""
    rows = []
    for _ in range(rng.integers(1, 4)):
        length = int(rng.integers(1, 13))
        labels = np.where(rng.random(length) < 0.7, rng.integers(0, 2, length), -100)
        labels[rng.integers(length)] = 1
        codes = rng.integers(0, SIZES, size=(length, len(SIZES)))
        rows.append(
            {
                "input_ids": rng.integers(3, 23, length).tolist(),
                "event_features": codes.tolist(),
                "labels": labels.tolist(),
            }
        )
    return rows


def batch_of(model, rows: list[dict], seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return LabelCollator(model.config, label_probability=0.5)(rows)


@pytest.mark.parametrize("is_decoder", [False, True])
@given(seed=st.integers(0, 2**20))
@settings(max_examples=40)
@torch.no_grad()
def test_in_training_nothing_of_the_event_and_nothing_after_it_moves_the_logits(is_decoder, seed):
    """Whatever the window and the other targets of the row: a target is found by the place that was drawn."""
    model = make_classifier(is_decoder, features=FEATURES)
    rng = np.random.default_rng(seed)
    rows = random_rows(rng)
    torch.manual_seed(seed)
    window, targets, _ = LabelCollator(model.config, label_probability=0.5).draw(rows[0])
    place = int(rng.choice(targets))
    event = (window.stop - 1) if not is_decoder else window.start + place
    changed = copy.deepcopy(rows)
    row, length, columns = changed[0], len(rows[0]["input_ids"]), model.config.columns
    codes = np.array(row["event_features"])
    codes[event, columns.of_event] = (codes[event] + rng.integers(1, SIZES))[columns.of_event] % SIZES[
        columns.of_event
    ]
    codes[event + 1 :] = rng.integers(0, SIZES, size=(length - event - 1, len(SIZES)))
    row["event_features"] = codes.tolist()
    row["input_ids"] = row["input_ids"][: event + 1] + rng.integers(3, 23, length - event - 1).tolist()
    before, after = (batch_of(model, given, seed) for given in (rows, changed))
    if is_decoder:
        column = list(targets).index(place)
        found = [model(**batch | {"labels": None}).logits[0, column] for batch in (before, after)]
    else:
        found = [model(**batch).logits[0] for batch in (before, after)]
    torch.testing.assert_close(found[1], found[0], **TOLERANCE)


@pytest.mark.parametrize("is_decoder", [False, True])
@torch.no_grad()
def test_the_request_of_the_target_and_all_of_the_events_before_move_the_logits(is_decoder):
    model = make_classifier(is_decoder, features=FEATURES)
    ids, codes = [3, 4, 5], np.random.default_rng(0).integers(0, SIZES, size=(3, len(SIZES)))

    def moves(event: int, column: int) -> bool:
        other = codes.copy()
        other[event, column] = (codes[event, column] + 1) % SIZES[column]
        before, after = (model(**build_targets(model.config, [ids], [part])).logits for part in (codes, other))
        return bool((after - before).abs().max() > 1e-3)

    assert [moves(2, column) for column in range(5)] == [False, True, False, True, True]
    assert all(moves(event, column) for event in range(2) for column in range(5))


@pytest.mark.parametrize("is_decoder", [False, True])
def test_rows_are_cut_to_their_end_and_aligned(is_decoder):
    config = make_classifier(is_decoder, features=FEATURES).config
    ids = [list(range(3, 13)), [7, 8]]
    codes = [np.ones((10, 5), dtype=int), None]
    inputs = build_targets(config, ids, codes)
    side = slice(0, 2) if is_decoder else slice(6, 8)
    assert inputs["input_ids"][0].tolist() == list(range(5, 13))
    assert inputs["input_ids"][1, side].tolist() == [7, 8]
    assert inputs["event_features"][0, :-1].eq(1).all()
    assert inputs["event_features"][0, -1].tolist() == [0, 1, 0, 1, 1]
    assert not inputs["event_features"][1].any()
    assert ("attention_mask" in inputs) is not is_decoder
    if not is_decoder:
        with pytest.raises(ValueError, match="causal"):
            build_targets(config, ids, codes, [[1], [0]])
