#!/usr/bin/env python
"""Ablation: the best validation NDCG@10 of the recipe with one thing changed, each variant with the same steps.

Trains every variant that is not finished yet, as `hf-rec train` does, and prints a table. The variants are options of
the recipe, and parts of other published models. Unknown arguments are passed on to `hf-rec train`. The results page of
`reproduce.py` includes the tables that are kept as `model_cards/results/*.md`.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from reproduce import check_arguments, read_run
from torch import nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer

from hf_rec import RecommendationCollator
from hf_rec.cli import train
from hf_rec.model import item_table, layers, modeling_bert4rec
from hf_rec.model.cpu import score_items
from hf_rec.model.layers import rotary_at, take_positions
from hf_rec.training import Hooks, RecommendationTrainer

CLOZE = ["--objective", "cloze"]
OPTIONS = {
    "the recipe": [],
    "masked items (cloze)": CLOZE,
    "masked items, a fifth of them": [*CLOZE, "--mask_probability", "0.2"],
    "masked items, half of the rows at the last alone": [*CLOZE, "--last_item_probability", "0.5"],
    "recent items alone of long histories": ["--window_probability", "0"],
    "1,024 sampled negatives": ["--loss_type", "sampled_softmax"],
    "gBCE, 1,024 negatives": ["--loss_type", "gbce"],
    "dropout 0.1": ["--hidden_dropout_prob", "0.1"],
    "dropout 0.4": ["--hidden_dropout_prob", "0.4"],
    "no weight decay": ["--weight_decay", "0"],
    "rate 1e-3": ["--learning_rate", "1e-3"],
    "rate 4e-3": ["--learning_rate", "4e-3"],
    "1 head": ["--num_attention_heads", "1"],
    "1 layer": ["--num_hidden_layers", "1"],
    "3 layers": ["--num_hidden_layers", "3"],
    "hidden size 64": ["--hidden_size", "64"],
    "hidden size 128": ["--hidden_size", "128"],
    "hidden size 256": ["--hidden_size", "256"],
    "a moving average of weight 0.5": ["--moving_average", "0.5"],
    "a moving average of weight 0.7": ["--moving_average", "0.7"],
    "no moving average": ["--moving_average", "0"],
    "a repeat bias": ["--use_repeat_bias", "true"],
    "no repeat bias": ["--use_repeat_bias", "false"],
    "output items of their own": ["--tie_word_embeddings", "false"],
}
TEMPERATURE = 0.05  # of cosine scores, as in HSTU
RECENCY = 0.95  # a target with n later targets in its row is kept with this probability to the power of n
EXCLUDED = -1e9  # added to a score, it leaves the item out of the softmax


class SwiGLU(nn.Module):
    """A gated feed-forward layer with as many parameters ([Shazeer, 2020](https://arxiv.org/abs/2002.05202))."""

    def __init__(self, config):
        super().__init__()
        width = 2 * config.intermediate_size // 3
        self.up = nn.Linear(config.hidden_size, 2 * width)
        self.down = nn.Linear(width, config.hidden_size)

    def forward(self, hidden_states):
        gate, value = self.up(hidden_states).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * value)


class Gate(nn.Module):
    """Multiplies the output of a branch by the sigmoid of a projection of its input, as in LiGR
    ([Borisyuk et al., 2025](https://arxiv.org/abs/2502.03417))."""

    def __init__(self, branch, size):
        super().__init__()
        self.branch, self.gate = branch, nn.Linear(size, size)

    def forward(self, hidden_states, *args, **kwargs):
        gate = torch.sigmoid(self.gate(hidden_states))
        output = self.branch(hidden_states, *args, **kwargs)
        return (output[0] * gate, output[1]) if isinstance(output, tuple) else output * gate


class PostNormLayer(layers.Bert4RecLayer):
    """Normalises after each residual sum, as in BERT, instead of before each branch."""

    def forward(self, hidden_states, rotary, attention_mask=None, positions=None, readable=None, cache=None, **kwargs):
        queries, query_rotary = hidden_states, rotary
        if positions is not None:
            queries = take_positions(hidden_states, positions)
            query_rotary = tuple(rotary_at(part, positions) for part in rotary)
        attended, _ = self.attention(queries, hidden_states, query_rotary, rotary, attention_mask, cache, **kwargs)
        if self.average is not None:
            attended = self.average(attended, hidden_states, readable, positions, cache)
        hidden_states = self.attention_norm(queries + self.dropout(attended))
        return self.mlp_norm(hidden_states + self.dropout(self.mlp(hidden_states)))


class PositionedEmbeddings(layers.Bert4RecEmbeddings):
    """Adds an embedding of the position, counted from the end of the row, as in SASRec."""

    def __init__(self, config):
        super().__init__(config)
        self.places = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.pad_token_id = config.pad_token_id

    def forward(self, input_ids, inputs_embeds=None, event_features=None):  # noqa: ARG002
        items_to_end = (input_ids != self.pad_token_id).flip(1).cumsum(1).flip(1)
        places = self.places((items_to_end - 1).clamp(min=0))
        return super().forward(inputs_embeds=self.items(input_ids) + places, event_features=event_features)


class PrincipalComponents(item_table.Whitening):
    """Turns vectors to their principal components, but keeps how much each of them varies."""

    def fit(self, vectors):
        super().fit(vectors)
        self.matrix /= self.matrix.norm(dim=0).clamp(min=1e-12)
        self.matrix /= self(vectors).std()  # of the same size as whitened vectors


class DecayingAverage(layers.Bert4RecMovingAverage):
    """Averages in which a state weighs less the older it is: over about 2 to 256 items, an eighth of the numbers each,
    as in Mega ([Ma et al., 2023](https://arxiv.org/abs/2209.10655)) with fixed decays."""

    def means(self, states, readable, cache):  # noqa: ARG002
        places = torch.arange(states.shape[1])
        distances = (places.unsqueeze(1) - places).abs() / 2.0 ** torch.arange(1, 9).view(-1, 1, 1)
        weights = (-distances).exp()  # (8, length, length)
        weights = weights.tril() if self.is_causal else weights
        known = torch.ones_like(states[..., :1]) if readable.mask is None else readable.mask
        parts = (states * known).unflatten(-1, (8, -1))  # (batch, length, 8, size / 8)
        sums = torch.einsum("pij,bjpn->bipn", weights, parts)
        totals = torch.einsum("pij,bjn->bipn", weights, known).clamp(min=1e-9)
        return (sums / totals).flatten(2)


class RecentTargets(RecommendationCollator):
    """Predicts recent items more often, after [Petrov and Macdonald, 2022](https://arxiv.org/abs/2207.02643)."""

    def next_items(self, input_ids, **_):
        labels = super().next_items(input_ids)["labels"]
        later_targets = labels.flip(1).ne(-100).cumsum(1).flip(1) - 1
        skipped = torch.rand(labels.shape) >= RECENCY**later_targets
        return {"labels": labels.masked_fill(skipped, -100)}


class ThinnedRows(RecommendationCollator):
    """Leaves a fifth of the items out of half of the training histories."""

    def __call__(self, rows):
        return super().__call__(rows if "labels" in rows[0] else [self.thin(row) for row in rows])

    def thin(self, row):
        kept = torch.rand(len(row["input_ids"])) >= 0.2 * (torch.rand(()) < 0.5)
        if kept.sum() < 2:
            return row
        columns = {"input_ids", "event_features", "basket_ids"} & row.keys()
        return row | {name: np.asarray(row[name])[kept.numpy()].tolist() for name in columns}


class CutRows(RecommendationCollator):
    """Cuts half of the histories after a random item and masks only that item: a request at a random time."""

    def __call__(self, rows):
        if "labels" in rows[0]:
            return super().__call__(rows)
        self.is_cut = torch.rand(len(rows)) < 0.5
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        ends = torch.where(self.is_cut, 1 + (torch.rand(len(rows)) * lengths).long(), lengths)
        columns = {"input_ids", "event_features"} & rows[0].keys()
        return super().__call__(
            [row | {name: row[name][:end] for name in columns} for row, end in zip(rows, ends.tolist(), strict=True)]
        )

    def mask_items(self, **inputs):
        anywhere = super().mask_items(**inputs)
        at_the_end = RecommendationCollator(self.config, last_item_probability=1.0).mask_items(**inputs)
        return {
            name: torch.where(self.is_cut.view(-1, *[1] * (values.dim() - 1)), at_the_end[name], values)
            for name, values in anywhere.items()
        }


class UnitItems:
    """An item table whose vectors have length 1."""

    def __init__(self, items):
        self.items = items

    def __call__(self, ids):
        return normalize(self.items(ids), dim=-1)

    def all_items(self):
        return normalize(self.items.all_items(), dim=-1)

    def score(self, states, bias):
        return score_items(states, self.all_items(), bias)


class CosineScores(modeling_bert4rec.Bert4RecScores):
    def forward(self, states, items, *others):
        return super().forward(normalize(states, dim=-1) / TEMPERATURE, UnitItems(items), *others)

    def loss(self, states, items, *others):
        return super().loss(normalize(states, dim=-1) / TEMPERATURE, UnitItems(items), *others)


class UnseenTargets:
    """In training, the cross entropy over the target and the items that are not in the history."""

    def score_states(self, outputs, positions, labels, banned_ids, input_ids, *others):
        if labels is None or not self.training:
            return super().score_states(outputs, positions, labels, banned_ids, input_ids, *others)
        rows, columns = (labels != -100).nonzero(as_tuple=True)
        targets, history = labels[rows, columns], input_ids[rows]
        ranked = history == targets.unsqueeze(1)
        if self.config.is_decoder:
            places = columns if positions is None else positions[rows, columns]
            ranked |= torch.arange(history.shape[1]) > places.unsqueeze(1)
        excluded = history.masked_fill(ranked, self.config.pad_token_id), torch.full(history.shape, EXCLUDED)
        states, num_items_in_batch = outputs.last_hidden_state[rows, columns], others[-1]
        return self.scores.loss(states, self.scoring_items, targets, excluded, num_items_in_batch), None


class SimilarLengths(RecommendationTrainer):
    """Each step has histories of similar length, as the stock Trainer groups them."""

    _get_train_sampler = Trainer._get_train_sampler


def change_parts(change: Callable[[PreTrainedModel], None]) -> Hooks:
    """Replaces parts of a new model."""

    def build_model(config):
        model = Hooks().build_model(config)
        change(model)
        model.init_weights()  # of the new parts
        return model

    return Hooks(build_model)


def build_unseen_targets(config):
    ours = modeling_bert4rec.model_class(config)
    return type(ours.__name__, (UnseenTargets, ours), {})(config)


def use_swiglu(model):
    for layer in model.model.layers:
        layer.mlp = SwiGLU(model.config)


def use_gates(model):
    for layer in model.model.layers:
        layer.attention = Gate(layer.attention, model.config.hidden_size)
        layer.mlp = Gate(layer.mlp, model.config.hidden_size)


def use_post_norms(model):
    layers = range(model.config.num_hidden_layers)
    model.model.layers = nn.ModuleList(PostNormLayer(model.config, index) for index in layers)


def use_positions(model):
    model.model.embeddings = PositionedEmbeddings(model.config)


def leave_out_norm(model):
    model.model.embeddings.norm = nn.Identity()


def leave_out_dropout(model):
    model.model.embeddings.dropout = nn.Identity()


def use_cosine(model):
    model.scores = CosineScores(model.config)


def leave_out_bias(model):
    model.scores.bias.requires_grad_(False)


def use_projection(model):
    """A linear layer before the scores, so that an item need not be close to the items that follow it."""
    size = model.config.hidden_size
    model.model.final_norm = nn.Sequential(model.model.final_norm, nn.Linear(size, size, bias=False))


def use_decaying_averages(model):
    for index, layer in enumerate(model.model.layers):
        layer.average = DecayingAverage(model.config, index)


def use_principal_components(model):
    for table in model.tables:
        if table.content is not None:
            sizes = [whitening.matrix.shape for whitening in table.content.whitenings]
            table.content.whitenings = nn.ModuleList(PrincipalComponents(*shape) for shape in sizes)


AVERAGE = ["--moving_average", "0.7"]
# The options that each part needs, and the part.
PARTS = {
    "SwiGLU": ([], change_parts(use_swiglu)),
    "gated layers (LiGR)": ([], change_parts(use_gates)),
    "norms after the sums": ([], change_parts(use_post_norms)),
    "embeddings of positions": ([], change_parts(use_positions)),
    "averages that decay": (AVERAGE, change_parts(use_decaying_averages)),
    "no norm of the embeddings": ([], change_parts(leave_out_norm)),
    "no dropout of the embeddings": ([], change_parts(leave_out_dropout)),
    "cosine scores": ([], change_parts(use_cosine)),
    "no output bias": ([], change_parts(leave_out_bias)),
    "a linear layer before the scores": ([], change_parts(use_projection)),
    "no items of the history in the softmax": ([], Hooks(build_unseen_targets)),
    "vectors of items not whitened": ([], change_parts(use_principal_components)),
    "recent items asked for more often": ([], Hooks(collator=RecentTargets)),
    "items left out of histories": ([], Hooks(collator=ThinnedRows)),
    "steps of similar lengths": ([], Hooks(trainer=SimilarLengths)),
    "masked items, half of the rows cut after any": (CLOZE, Hooks(collator=CutRows)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--steps", type=int, default=0, help="training steps of each variant; 0: as in the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="*", help="names of the variants; default: all")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"), help="folder for the models")
    options, more = parser.parse_known_args()
    variants = {name: (changes, Hooks()) for name, changes in OPTIONS.items()} | PARTS
    if unknown := sorted({*(options.variants or [])} - {*variants}):
        parser.error(f"no variant {unknown}; there are {list(variants)}")

    dataset = options.train_file.parent.name
    steps = f"{options.steps:,} steps" if options.steps else "the recipe's steps"
    print(f"\n## {dataset}: one thing changed\n\nBest validation in {steps}, seed {options.seed}.\n")
    print(f"`{train.command_line('python scripts/ablate.py', sys.argv[1:])}`\n")
    print("| changed | NDCG@10 | HR@10 | training, s |\n|---|---:|---:|---:|", flush=True)
    given = ["--train_file", options.train_file, "--max_steps", options.steps, "--seed", options.seed]
    given += ["--eval_steps", 0.2, "--save_steps", 0.2, *more]
    runs = options.output_dir / f"{dataset}-{options.steps}-seed-{options.seed}"
    for name in tqdm(options.variants or variants):
        changes, hooks = variants[name]
        arguments = [*map(str, given), *changes]
        folder = runs / "".join(letter if letter.isalnum() else "-" for letter in name)
        if not (folder / "config.json").exists():  # written at the end of a run
            with redirect_stdout(sys.stderr):
                train.main(["--output_dir", str(folder), *arguments], hooks)
        check_arguments(folder, arguments)
        run = read_run(folder)
        ndcg, hr = run["validation"]
        print(f"| {name} | {ndcg:.4f} | {hr:.4f} | {run['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
