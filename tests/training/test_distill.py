"""A student learns from the scores of teachers."""

import copy

import pytest
import torch
from conftest import random_histories, small_model, without_dropout
from runs import SIZES, arguments, chains_log, steps
from torch import nn

from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.model import losses
from hf_rec.training import create_model, distill, fit
from hf_rec.training.distill import (
    Distillation,
    Lesson,
    Scored,
    labelled_states,
    load_teachers,
    similarity_loss,
)


def scored(model, batch) -> Scored:
    states, _, repeats = labelled_states(model, **batch)
    return Scored(states, model.scoring_items.all_items(), model.scores.bias, repeats)


def divergence(learned: Scored, taught: Scored, temperature: float = 1.0) -> torch.Tensor:
    targets = torch.zeros(len(learned.states), dtype=torch.long)
    compare = Lesson(taught.to(learned.states.dtype), temperature=temperature)
    return losses.softmax_loss(*learned[:3], targets, *learned.repeats, compare=compare)


def a_batch(rows: int = 5, is_decoder: bool = True) -> dict[str, torch.Tensor]:
    ids = random_histories(torch.Generator().manual_seed(0), rows, 6)
    ids[0, :2] = 0
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, 0] = -100
    if not is_decoder:
        labels[:, 1::2] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids != 0).long()}


def other_seed(model, seed: int = 1):
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.3)
    return other.eval()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_the_divergence_is_that_of_the_softmax_over_all_scores(repeating_recommender, temperature, chunk, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_SCORES", chunk)
    monkeypatch.setattr(losses, "CHUNK_TARGETS", 3)
    student, teacher = repeating_recommender, other_seed(repeating_recommender)
    batch = a_batch(is_decoder=student.config.is_decoder)
    found = divergence(scored(student, batch), Distillation([teacher]).teach(batch), temperature)
    with torch.no_grad():
        wanted = (teacher(**batch).logits / temperature).softmax(-1)  # of the labels, row after row
    logits = (student(**batch).logits / temperature).log_softmax(-1)
    expected = temperature**2 * (wanted * (wanted.log() - logits)).sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    learned = [*student.parameters()]
    gradients = (torch.autograd.grad(loss, learned) for loss in (found, expected))
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-3


def test_a_teacher_like_the_student_teaches_nothing(repeating_recommender):
    batch = a_batch(is_decoder=repeating_recommender.config.is_decoder)
    taught = Distillation([copy.deepcopy(repeating_recommender)]).teach(batch)
    learned = scored(repeating_recommender, batch)
    assert divergence(learned, taught, 2.0).item() == pytest.approx(0, abs=1e-4)
    assert similarity_loss(learned.states, taught.states).item() == pytest.approx(0, abs=1e-6)


def test_targets_that_are_compared_are_all_known(decoder):
    taught, targets = scored(decoder, a_batch()), torch.tensor([3, -100])
    with pytest.raises(ValueError, match="compare takes targets that are all known"):
        losses.softmax_loss(taught.states[:2], *taught[1:3], targets, compare=Lesson(taught))


@torch.no_grad()
def test_several_teachers_have_the_mean_of_their_scores(repeating_recommender):
    plain = small_model(23, is_decoder=repeating_recommender.config.is_decoder)
    teachers = [repeating_recommender, other_seed(repeating_recommender), plain]
    batch = a_batch(is_decoder=plain.config.is_decoder)
    taught = Distillation(teachers).teach(batch)
    expected = torch.stack([teacher(**batch).logits for teacher in teachers]).mean(0)
    torch.testing.assert_close(taught.chunk(slice(None)), expected, atol=1e-5, rtol=1e-5)


def test_similarities_of_states_of_any_width_are_compared():
    states = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    turned = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 5.0], [0.0, 1.0, 1.0]])  # the same angles
    assert similarity_loss(states, turned).item() == pytest.approx(0, abs=1e-6)
    right = torch.tensor([[1.0], [1.0], [-1.0]])  # cosines 1, -1, -1 in place of 0, 0.5**0.5, 0.5**0.5
    root = 0.5**0.5
    expected = 2 * (1 + 2 * (1 + root) ** 2) / 9 * 3
    assert similarity_loss(states, right).item() == pytest.approx(expected, rel=1e-5)


def trainer_of(student, teacher, folder, **options):
    """A Trainer whose loss can be asked for."""
    return distill.DistillationTrainer(
        student, arguments(folder, eval_strategy="no"), distillation=Distillation([teacher], **options)
    )


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_loss_is_shared_by_the_data_and_the_teachers(decoder, tmp_path, weight):
    student, teacher, batch = without_dropout(decoder).train(), other_seed(decoder), a_batch()
    trainer = trainer_of(student, teacher, tmp_path, weight=weight, temperature=2.0, states_weight=0.5)
    found = trainer.compute_loss(student, dict(batch), num_items_in_batch=torch.tensor(7))
    learned, taught = scored(student, batch), trainer.distillation.teach(batch)
    own = student(**batch, num_items_in_batch=torch.tensor(7)).loss
    others = weight * divergence(learned, taught, 2.0) + 0.5 * similarity_loss(learned.states, taught.states)
    torch.testing.assert_close(found, (1 - weight) * own + others / 7)


def test_a_sampled_loss_compares_the_targets_and_the_negatives(tmp_path, monkeypatch):
    student = without_dropout(small_model(23, is_decoder=True, loss_type="sampled_softmax", num_negatives=4)).train()
    teacher, batch = other_seed(student), a_batch()
    negatives = torch.tensor([3, 20, 21, 22])
    monkeypatch.setattr(distill, "sample_items", lambda *_: negatives)
    found = trainer_of(student, teacher, tmp_path, weight=1.0).compute_loss(student, dict(batch))
    states, targets, _ = labelled_states(student, **batch)
    ids = torch.tensor(sorted({*targets.tolist(), *negatives.tolist()}))
    with torch.no_grad():
        wanted = teacher(**batch).logits[:, ids].softmax(-1)
    logits = (states @ student.items.all_items().T + student.scores.bias)[:, ids].log_softmax(-1)
    expected = (wanted * (wanted.log() - logits)).sum() / len(targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_student_with_the_teacher_alone_comes_close_to_it(tmp_path):
    splits = leave_one_out(build_sequences(chains_log(150)))
    torch.manual_seed(0)
    fields = SIZES | {"is_decoder": True, "hidden_dropout_prob": 0.0}
    teacher, tokenizer = create_model(splits, fields | {"hidden_size": 32}, 16)
    tokenized = tokenize_splits(splits, tokenizer)
    fit(teacher, tokenizer, tokenized, steps(tmp_path / "teacher", 40))
    student, _ = create_model(splits, fields, 16)
    before = [weights.clone() for weights in teacher.parameters()]
    batch = tokenized["test"][:50]
    inputs = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in batch["input_ids"]], batch_first=True)
    taught = Distillation([teacher], weight=1.0)
    labels = {"input_ids": inputs, "labels": inputs.masked_fill(inputs == 0, -100)}

    def distance():
        with torch.no_grad():
            learned = scored(student.eval(), labels)
            return divergence(learned, taught.teach(labels)).item() / len(learned.states)

    first = distance()
    fit(student, tokenizer, tokenized, steps(tmp_path / "student", 60), distillation=taught)
    assert distance() < 0.2 * first
    assert all(torch.equal(one, other) for one, other in zip(teacher.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"weight": 1.5}, "weight.*1.5"), ({"temperature": 0.0}, "temperature.*0.0")]
    + [({"states_weight": -1.0}, "states.*-1.0"), ({"teachers": []}, "needs a teacher")],
)
def test_options_out_of_their_range_are_errors(decoder, options, named):
    with pytest.raises(ValueError, match=named):
        Distillation(**{"teachers": [decoder]} | options)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"is_decoder": False}, "is_decoder=True.*False"),
        ({"is_decoder": True, "loss_type": "gbce"}, "repeat bias.*gbce"),
        ({"is_decoder": True, "vocab_size": 22}, "catalogue of 23 tokens"),
    ],
)
def test_a_teacher_of_another_kind_is_named(tokenizer, tmp_path, fields, named):
    teacher = small_model(23, is_decoder=True, use_repeat_bias=True)
    teacher.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    student = small_model(**{"vocab_size": 23} | fields)
    if student.config.vocab_size == 22:
        tokenizer = type(tokenizer).from_items([f"item-{number}" for number in range(19)], max_length=8)
    with pytest.raises(ValueError, match=named):
        load_teachers([str(tmp_path)], student, tokenizer)
