"""Distillation: a student learns from the scores of trained models beside the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.linalg import vecdot
from transformers import PreTrainedModel

from ..data.tokenization_items import ItemTokenizer
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.losses import sample_items, softmax_, softmax_loss
from ..model.modeling_bert4rec import scored_positions
from .create import load_model
from .trainer import RecommendationTrainer

SIMILAR_STATES = 1_024  # states of a batch whose similarities are compared


class Scored(NamedTuple):
    """What gives scores of items at the targets of a batch.

    Attributes:
        states: (targets, width).
        vectors: (items, width).
        bias: (items,).
        repeats: The (targets, n) items of the histories and the biases of their scores, or nothing.
    """

    states: torch.Tensor
    vectors: torch.Tensor
    bias: torch.Tensor
    repeats: tuple = ()

    def to(self, dtype: torch.dtype) -> "Scored":
        """The same in another type."""
        repeats = (self.repeats[0], self.repeats[1].to(dtype)) if self.repeats else ()
        return Scored(*(part.to(dtype) for part in self[:3]), repeats)

    def chunk(self, part: slice) -> torch.Tensor:
        """(targets of the part, items) scores."""
        scores = torch.addmm(self.bias, self.states[part], self.vectors.t())
        if self.repeats:
            ids, biases = self.repeats
            scores.scatter_add_(1, ids[part], biases[part])
        return scores


class Lesson(NamedTuple):
    """What a student's scores of a batch are compared with: a `compare` of [`softmax_loss`].

    The loss of a target is (1 - weight) times its cross entropy, plus weight * temperature^2 times the
    Kullback-Leibler divergence of the student's softmax(scores / temperature) from the teachers'
    ([Hinton et al., 2015](https://arxiv.org/abs/1503.02531)).

    Attributes:
        taught: The teachers' scores, in the type of the student's products.
    """

    taught: Scored
    weight: float = 1.0
    temperature: float = 1.0

    def __call__(self, scores: torch.Tensor, targets: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        own = scores.gather(1, targets.unsqueeze(1)).squeeze(1)
        warm = self.temperature != 1
        learned, taught = scores, self.taught.chunk(part)
        if warm:
            learned, taught = scores / self.temperature, taught.div_(self.temperature)
        wanted, taught_totals = softmax_(taught.clone())
        divergences = vecdot(wanted, taught) - vecdot(wanted, learned)
        errors, totals = softmax_(learned)
        divergences = divergences + totals - taught_totals
        factor = self.weight * self.temperature
        if warm:
            probabilities, totals = softmax_(scores)
            errors.mul_(factor).add_(probabilities, alpha=1 - self.weight)
        errors.sub_(wanted, alpha=factor)
        errors.scatter_add_(1, targets.unsqueeze(1), errors.new_full((len(targets), 1), self.weight - 1))
        return (1 - self.weight) * (totals - own) + self.weight * self.temperature**2 * divergences, errors


@dataclass
class Distillation:
    """What a student learns from teachers.

    Args:
        teachers: Trained recommenders; of several, the scores are averaged.
        weight: Share of the teachers in the loss, in [0, 1]; the rest is the loss of the student itself.
        temperature: What scores are divided by before they become probabilities; above 0.
        states_weight: Weight of the difference between the similarities of states, at least 0.
    """

    teachers: Sequence[PreTrainedModel]
    weight: float = 0.5
    temperature: float = 1.0
    states_weight: float = 0.0

    def __post_init__(self):
        if not self.teachers:
            raise ValueError("distillation needs a teacher")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of the teachers must lie in [0, 1], got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be above 0, got {self.temperature}")
        if not self.states_weight >= 0:
            raise ValueError(f"the weight of the states must be at least 0, got {self.states_weight}")
        for teacher in self.teachers:
            teacher.eval().requires_grad_(False)

    @property
    def options(self) -> dict[str, float]:
        """All but the teachers."""
        return {name: getattr(self, name) for name in ("weight", "temperature", "states_weight")}

    @torch.no_grad()
    def teach(self, batch: dict[str, torch.Tensor], ids: torch.Tensor | None = None) -> Scored:
        """What the teachers know of a batch of training: their states and item vectors side by side, so that products
        are the means of their scores.

        Args:
            ids: (items,) the items that are compared; all if None.
        """
        count = len(self.teachers)
        states, _, repeats = zip(*(labelled_states(teacher, **batch) for teacher in self.teachers), strict=True)
        tables = [teacher.scoring_items for teacher in self.teachers]
        vectors = [table.all_items() if ids is None else table(ids) for table in tables]
        bias = sum(teacher.scores.bias for teacher in self.teachers) / count
        repeats = [pair for pair in repeats if pair]
        return Scored(
            torch.cat(states, dim=1),
            torch.cat(vectors, dim=1) / count,
            bias if ids is None else bias[ids],
            (repeats[0][0], sum(biases for _, biases in repeats) / count) if repeats else (),
        )


def make_distillation(
    folders: Sequence[str], student: PreTrainedModel, tokenizer: ItemTokenizer, **options: float
) -> Distillation | None:
    """Teachers from folders, as [`load_teachers`] opens them; None without any.

    Args:
        options: Of [`Distillation`].
    """
    return Distillation(load_teachers(folders, student, tokenizer), **options) if folders else None


def load_teachers(folders: Sequence[str], student: PreTrainedModel, tokenizer: ItemTokenizer) -> list[PreTrainedModel]:
    """Saved models as teachers of a student.

    Raises:
        ValueError: for a teacher with another catalogue, another objective or other features than the student.
    """
    teachers, config = [], student.config
    for folder in folders:
        teacher, vocabulary = load_model(folder)
        if vocabulary.get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"the teacher {folder} has a catalogue of {len(vocabulary)} tokens that is not that of this log "
                f"({len(tokenizer)} tokens); train it on the same log"
            )
        if teacher.config.is_decoder != config.is_decoder:
            raise ValueError(
                f"the teacher {folder} has is_decoder={teacher.config.is_decoder}, the student "
                f"{config.is_decoder}; give both one --objective"
            )
        if teacher.config.features != config.features:
            names = [[feature.name for feature in read.features] for read in (teacher.config, config)]
            raise ValueError(
                f"the teacher {folder} reads the features {names[0]}, the student {names[1]}; they must be the same"
            )
        if teacher.config.use_repeat_bias and config.loss_type != "softmax":
            raise ValueError(
                f"the teacher {folder} has a repeat bias, which a student with loss_type={config.loss_type!r} cannot "
                "learn; give --loss_type softmax"
            )
        teachers.append(teacher)
    return teachers


def labelled_states(
    model: PreTrainedModel, input_ids, labels, attention_mask=None, event_features=None, logits_to_keep=0
) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    """(targets, hidden_size) states at the labels of a batch of training, the (targets,) labels, and the items of the
    histories with their biases, where the model has some."""
    if model.config.is_decoder:
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    positions, labels = scored_positions(labels, logits_to_keep, labels.shape)
    outputs = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        event_features=event_features,
        positions_to_keep=positions,
        use_cache=False,
    )
    repeats = ()
    if model.config.use_repeat_bias:
        repeats = model.find_repeats(None, positions, labels, input_ids, attention_mask)
    return outputs.last_hidden_state[labels != -100], labels[labels != -100], repeats


class DistillationTrainer(RecommendationTrainer):
    """The Trainer of a student: its loss is the student's own and its difference from the teachers.

    The teachers are asked only at the positions of labels, and about the items that the student's loss compares: the
    whole catalogue, in chunks of targets, or the targets of a batch and sampled negatives.

    Raises:
        ValueError: for several processes.
    """

    def __init__(self, *args, distillation: Distillation, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.world_size > 1:
            raise ValueError(f"distillation runs in one process, got {self.args.world_size}")
        self.distillation = distillation
        for teacher in distillation.teachers:
            teacher.to(self.args.device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        given, scores, items = self.distillation, model.scores, model.scoring_items
        states, targets, repeats = labelled_states(model, **inputs)
        ids = compared_items(model.config, targets)
        taught = given.teach(inputs, ids)
        dtype = torch.promote_types(states.dtype, torch.float32)
        lesson = Lesson(taught.to(dtype), given.weight if ids is None else 1.0, given.temperature)
        count = torch.as_tensor(len(targets) if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        if ids is None:
            loss = scores.loss(states, items, targets, repeats, count, compare=lesson)
        else:
            own = scores.loss(states, items, targets, repeats, count)
            any_targets = torch.zeros_like(targets)  # that weigh nothing
            divergence = softmax_loss(states, items(ids), scores.bias[ids], any_targets, compare=lesson) / count
            loss = own.lerp(divergence, given.weight)
        if given.states_weight:
            loss = loss + given.states_weight * similarity_loss(states, taught.states) / count
        return loss


def compared_items(config: Bert4RecConfig, targets: torch.Tensor) -> torch.Tensor | None:
    """The ids whose scores student and teachers compare: all if None, or the targets and sampled negatives."""
    if config.loss_type == "softmax":
        return None
    negatives = sample_items(config.num_negatives, config.vocab_size, config.special_token_ids, targets.device)
    return torch.cat([targets, negatives]).unique()


def similarity_loss(states: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """How much the similarities of states differ: squares, as a mean over pairs, times the number of states.

    Compares cosines, so the widths of student and teachers may differ (similarity-preserving distillation,
    [Tung and Mori, 2019](https://arxiv.org/abs/1907.09682)). The first `SIMILAR_STATES` states are compared.

    Args:
        states, taught: (targets, width) and (targets, another width).
    """
    cosines = []
    for vectors in (states, taught):
        vectors = nn.functional.normalize(vectors[:SIMILAR_STATES].float(), dim=1)
        cosines.append(vectors @ vectors.t())
    return (cosines[0] - cosines[1]).square().mean() * len(states) if len(states) else states.sum()


__all__ = [
    "Distillation",
    "DistillationTrainer",
    "load_teachers",
    "make_distillation",
    "similarity_loss",
]
