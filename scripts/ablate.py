#!/usr/bin/env python
"""What each part of the recipe is worth: the best validation NDCG@10 with one thing changed, for as many steps.

Trains each variant that is not done yet as `train.py` does, and prints a table: options of the recipe, and parts of
other models that `hf_rec` could have. Other arguments go to `train.py`. The page that `reproduce.py` writes ends with
the tables that are kept as `model_cards/results/*.md`.
"""

import argparse
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import torch
import train
from reproduce import check_arguments, read_run
from torch import nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import Trainer

from hf_rec import collator, modeling_bert4rec, training
from hf_rec.loss_bert4rec import softmax_loss

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
    "a repeat bias": ["--use_repeat_bias", "true"],
    "no repeat bias": ["--use_repeat_bias", "false"],
    "output items of their own": ["--tie_word_embeddings", "false"],
}
TEMPERATURE = 0.05  # of cosine scores, as HSTU has it
RECENCY = 0.95  # chance of the last item but one to be asked for; the one before it has its square


class SwiGLU(nn.Module):
    """A gated feed-forward layer of as many parameters ([Shazeer, 2020](https://arxiv.org/abs/2002.05202))."""

    def __init__(self, config):
        super().__init__()
        width = 2 * config.intermediate_size // 3
        self.up = nn.Linear(config.hidden_size, 2 * width)
        self.down = nn.Linear(width, config.hidden_size)

    def forward(self, hidden_states):
        gate, value = self.up(hidden_states).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * value)


class Gate(nn.Module):
    """A branch times the sigmoid of a projection of its input, as in LiGR
    ([Borisyuk et al., 2025](https://arxiv.org/abs/2502.03417))."""

    def __init__(self, branch, size):
        super().__init__()
        self.branch, self.gate = branch, nn.Linear(size, size)

    def forward(self, hidden_states, *args, **kwargs):
        gate = torch.sigmoid(self.gate(hidden_states))
        output = self.branch(hidden_states, *args, **kwargs)
        return (output[0] * gate, output[1]) if isinstance(output, tuple) else output * gate


class GatedLayer(modeling_bert4rec.Bert4RecLayer):
    def __init__(self, config, layer_index):
        super().__init__(config, layer_index)
        self.attention, self.mlp = Gate(self.attention, config.hidden_size), Gate(self.mlp, config.hidden_size)


class PostNormLayer(modeling_bert4rec.Bert4RecLayer):
    """Norms of the sums, as in BERT, in place of norms of what the branches read."""

    def forward(self, hidden_states, rotary, attention_mask=None, positions=None, **kwargs):
        queries, query_rotary = hidden_states, rotary
        if positions is not None:
            queries = modeling_bert4rec.take_positions(hidden_states, positions)
            rotary_rows = (part.expand(len(queries), -1, -1) for part in rotary)
            query_rotary = tuple(modeling_bert4rec.take_positions(part, positions) for part in rotary_rows)
        attended, _ = self.attention(queries, hidden_states, query_rotary, rotary, attention_mask, **kwargs)
        hidden_states = self.attention_norm(queries + self.dropout(attended))
        return self.mlp_norm(hidden_states + self.dropout(self.mlp(hidden_states)))


class PositionedEmbeddings(modeling_bert4rec.Bert4RecEmbeddings):
    """Items and their places from the end of the row, as in SASRec."""

    def __init__(self, config):
        super().__init__(config)
        self.places = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids, inputs_embeds=None, time_gaps=None):  # noqa: ARG002
        places = ((input_ids > 0).sum(1, keepdim=True) - 1 - torch.arange(input_ids.shape[1])).clamp(min=0)
        return super().forward(
            inputs_embeds=self.item_embeddings(input_ids) + self.places(places), time_gaps=time_gaps
        )


class PlainEmbeddings(modeling_bert4rec.Bert4RecEmbeddings):
    def __init__(self, config):
        super().__init__(config)
        self.norm = nn.Identity()


class UndroppedEmbeddings(modeling_bert4rec.Bert4RecEmbeddings):
    def __init__(self, config):
        super().__init__(config)
        self.dropout = nn.Identity()


class ProjectedModel(modeling_bert4rec.Bert4RecModel):
    """A linear layer before the scores: what follows an item need then not be near it."""

    def __init__(self, config):
        super().__init__(config)
        projection = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        nn.init.normal_(projection.weight, std=config.hidden_size**-0.5)
        self.final_norm = nn.Sequential(self.final_norm, projection)


class RecentTargets(collator.RecommendationCollator):
    """Asks for recent items more often, after [Petrov and Macdonald, 2022](https://arxiv.org/abs/2207.02643)."""

    def next_item(self, input_ids):
        batch = super().next_item(input_ids)
        after = batch["labels"].flip(1).ne(-100).cumsum(1).flip(1) - 1  # targets after each
        skipped = torch.rand(after.shape) >= RECENCY**after
        return batch | {"labels": batch["labels"].masked_fill(skipped, -100)}


class CutRows(collator.RecommendationCollator):
    """Cuts half of the histories after any item, which alone is then masked: what serving asks, at any time."""

    def __call__(self, features):
        if "labels" in features[0]:
            return super().__call__(features)
        cut = torch.rand(len(features)) < 0.5
        ends = (
            1 + (torch.rand(len(features)) * torch.tensor([len(feature["input_ids"]) for feature in features])).long()
        )
        batch = super().__call__(
            [
                feature | {name: feature[name][:end] for name in ("input_ids", "time_gaps") if name in feature}
                if is_cut
                else feature
                for feature, end, is_cut in zip(features, ends.tolist(), cut.tolist(), strict=True)
            ]
        )
        items = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
        masked = torch.where(
            cut.unsqueeze(1), torch.arange(items.shape[1]) == items.shape[1] - 1, batch["labels"] != -100
        )
        return batch | {
            "input_ids": items.masked_fill(masked, self.tokenizer.mask_token_id),
            "labels": items.masked_fill(~masked, -100),
        }


def cosine_softmax_loss(states, item_table, *others):
    return softmax_loss(normalize(states, dim=-1) / TEMPERATURE, normalize(item_table, dim=-1), *others)


def cosine_scores(states, decoder):
    return nn.functional.linear(
        normalize(states, dim=-1) / TEMPERATURE, normalize(decoder.weight, dim=-1), decoder.bias
    )


def unbiased_softmax_loss(states, item_table, item_bias, *others):
    """Leaves the bias at zero, where it began."""
    return softmax_loss(states, item_table, item_bias.detach(), *others)


def unseen_scores(
    self, labels, logits_to_keep, banned_ids, history_ids=None, input_ids=None, num_items_in_batch=None, **kwargs
):
    """The cross entropy over the target and the items that a ranking without the history has."""
    if labels is None or not self.training:
        return SCORES(self, labels, logits_to_keep, banned_ids, history_ids, input_ids=input_ids, **kwargs)
    labelled = labels != -100
    rows, positions = labelled.nonzero(as_tuple=True)
    targets, seen = labels[labelled], input_ids[rows]
    if self.config.is_decoder:
        seen = seen.masked_fill(torch.arange(seen.shape[1]) > positions.unsqueeze(1), self.config.pad_token_id)
    seen = seen.masked_fill(seen == targets.unsqueeze(1), self.config.pad_token_id)
    outputs = self.model(input_ids=input_ids, **kwargs)
    loss = 0.0
    for some, target, banned in zip(
        outputs.last_hidden_state[labelled].split(1024), targets.split(1024), seen.split(1024), strict=True
    ):
        scores = self.decoder(some).scatter(1, banned, -1e9)
        loss += nn.functional.cross_entropy(scores, target, reduction="sum")
    return loss / (len(targets) if num_items_in_batch is None else num_items_in_batch), None, outputs


SCORES = modeling_bert4rec.Bert4RecForMaskedLM.scores
MODEL = modeling_bert4rec
PARTS = {
    "SwiGLU": {(MODEL, "Bert4RecMLP"): SwiGLU},
    "gated layers (LiGR)": {(MODEL, "Bert4RecLayer"): GatedLayer},
    "norms after the sums": {(MODEL, "Bert4RecLayer"): PostNormLayer},
    "embeddings of positions": {(MODEL, "Bert4RecEmbeddings"): PositionedEmbeddings},
    "no norm of the embeddings": {(MODEL, "Bert4RecEmbeddings"): PlainEmbeddings},
    "no dropout of the embeddings": {(MODEL, "Bert4RecEmbeddings"): UndroppedEmbeddings},
    "cosine scores": {(MODEL, "softmax_loss"): cosine_softmax_loss, (MODEL, "score_items"): cosine_scores},
    "no output bias": {(MODEL, "softmax_loss"): unbiased_softmax_loss},
    "a linear layer before the scores": {(MODEL, "Bert4RecModel"): ProjectedModel},
    "no items of the history in the softmax": {(MODEL.Bert4RecForMaskedLM, "scores"): unseen_scores},
    "recent items asked for more often": {(training, "RecommendationCollator"): RecentTargets},
    "steps of similar lengths": {(training.RecommendationTrainer, "_get_train_sampler"): Trainer._get_train_sampler},
    "masked items, half of the rows cut after any": {(training, "RecommendationCollator"): CutRows},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--steps", type=int, default=0, help="steps of each variant; 0 for the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="*", help="names of some variants; all by default")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"), help="where the models go")
    options, more = parser.parse_known_args()
    variants = {name: (changes, {}) for name, changes in OPTIONS.items()}
    variants |= {name: (CLOZE if "masked" in name else [], changed) for name, changed in PARTS.items()}
    if unknown := sorted({*(options.variants or [])} - {*variants}):
        parser.error(f"no variant {unknown}; there are {list(variants)}")

    dataset = options.train_file.parent.name
    steps = f"{options.steps:,} steps" if options.steps else "the recipe's steps"
    print(f"\n## {dataset}: one thing changed\n\nBest validation in {steps}, seed {options.seed}.\n")
    print(f"`{train.command_line('ablate.py', sys.argv[1:])}`\n")
    print("| changed | NDCG@10 | HR@10 | training, s |\n|---|---:|---:|---:|", flush=True)
    given = ["--train_file", options.train_file, "--max_steps", options.steps, "--seed", options.seed]
    given += ["--eval_steps", 0.2, "--save_steps", 0.2, *more]
    runs = options.output_dir / f"{dataset}-{options.steps}-seed-{options.seed}"
    for name in tqdm(options.variants or variants):
        changes, changed = variants[name]
        arguments = [*map(str, given), *changes]
        folder = runs / "".join(letter if letter.isalnum() else "-" for letter in name)
        if not (folder / "config.json").exists():  # written last
            with ExitStack() as stack:
                stack.enter_context(redirect_stdout(sys.stderr))
                for (module, attribute), part in changed.items():
                    stack.enter_context(patch.object(module, attribute, part))
                train.main(["--output_dir", str(folder), *arguments])
        check_arguments(folder, arguments)
        run = read_run(folder)
        ndcg, hr = run["validation"]
        print(f"| {name} | {ndcg:.4f} | {hr:.4f} | {run['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
