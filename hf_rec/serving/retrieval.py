"""Recommendation in two stages: an index retrieves items, then scores, rules and variety order them."""

import torch

from ..model.pipeline_bert4rec import RecommendationPipeline, check_count
from ..model.ranking import top_items
from ..model.rule_set import BatchRules
from .index import ItemIndex
from .onnx import OnnxRecommendationPipeline
from .vectors import available_items, encode_inputs


class IndexedRecommendationPipeline(RecommendationPipeline):
    """[`RecommendationPipeline`] that scores only the items that an index retrieves for each history.

    Scores are exact, with the repeat bias. Rules act on the retrieved items and on pinned ones; an item that a boost
    would lift must have been retrieved. The whole catalogue is scored where a list would not be full, for lists with a
    rule `at_least`, and for `candidates`.

    Args:
        index: Of the items of the model, as `ItemIndex.of(recommend, kind="hnsw")` makes it.
        retrieved: Items that the index gives for each history, beside as many as are in the history or banned.

    Example:
        >>> fast = IndexedRecommendationPipeline.of(recommend, index)  # doctest: +SKIP
        >>> fast(["sku-012", "sku-017"], top_k=3)  # doctest: +SKIP
    """

    def __init__(self, *args, index: ItemIndex, retrieved: int = 500, **kwargs):
        super().__init__(*args, **kwargs)
        items = [index.items[row] for row in range(len(index))]
        known = available_items(self)
        if {*items} != known.keys():
            raise ValueError(
                f"the index has {len(items)} items and the model {len(known)}, of which "
                f"{len(known.keys() - {*items})} are not in the index; build the index of this model"
            )
        self.index = index
        self.retrieved = check_count(retrieved, "retrieved")
        self.token_ids = torch.tensor([known[item] for item in items], device=self.device)

    @classmethod
    def of(
        cls, recommend: RecommendationPipeline, index: ItemIndex, retrieved: int = 500
    ) -> "IndexedRecommendationPipeline":
        """The pipeline of the same model with an index."""
        if isinstance(recommend, OnnxRecommendationPipeline):
            raise ValueError("an exported model scores all items; open the recommender from which it was exported")
        return cls(
            model=recommend.model,
            tokenizer=recommend.tokenizer,
            device=recommend.device,
            batch_size=recommend._batch_size,
            index=index,
            retrieved=retrieved,
        )

    def _forward(self, inputs, top_k=10, explain_rules=False):
        rules = inputs.get("rules")
        if "candidate_ids" in inputs or has_shares(rules):
            return super()._forward(inputs, top_k, explain_rules)
        ids, scores = self.retrieve(inputs, top_k)
        if rules is None:
            places, best = top_items(scores, top_k)
            outputs = self.checked(ids.gather(1, places), best)
        else:
            everywhere = scores.new_full((len(ids), self.model.config.vocab_size), -torch.inf)
            outputs = self.rank(everywhere.scatter_(1, ids, scores), top_k, None, rules, explain_rules)
        if outputs["scores"].shape[1] < top_k or (outputs["scores"] == -torch.inf).any():
            return super()._forward(inputs, top_k, explain_rules)
        return outputs

    def retrieve(self, inputs: dict, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, n) ids of the items that are retrieved, pinned or in the history, and their scores, -inf for those
        that are banned or come twice."""
        input_ids, banned_ids = inputs["input_ids"], inputs["banned_ids"]
        states, encoded = encode_inputs(self, inputs)
        count = max(self.retrieved, top_k) + input_ids.shape[1] + banned_ids.shape[1]
        rows = self.index.search_rows(states, count)[0].to(self.device)
        found = self.token_ids[rows.clamp(min=0)].masked_fill(rows < 0, self.model.config.pad_token_id)
        others = torch.tensor(pinned_ids(inputs.get("rules")), device=self.device, dtype=torch.long).expand(
            len(found), -1
        )
        ids = torch.cat([found, input_ids, others], dim=1).sort(dim=1).values
        scores = (self.model.scoring_items(ids) @ states.unsqueeze(2)).squeeze(2) + self.model.scores.bias[ids]
        if self.model.config.use_repeat_bias:
            scores += self.repeat_biases(inputs, encoded, ids)
        unavailable = torch.tensor(self.model.config.unavailable_ids, device=self.device)
        twice = torch.nn.functional.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
        banned = torch.isin(ids, unavailable) | equal(ids, banned_ids).any(2)
        ids = ids.masked_fill(twice, self.model.config.pad_token_id)
        return ids, scores.masked_fill(twice | banned, -torch.inf)

    def repeat_biases(self, inputs: dict, encoded, ids: torch.Tensor) -> torch.Tensor:
        """(rows, n) biases of those of the (rows, n) ids that are in the history."""
        repeated, biases = self.model.find_repeats(
            encoded.cache, inputs["logits_to_keep"], None, inputs["input_ids"], inputs.get("attention_mask")
        )
        return (equal(ids, repeated[:, 0]) * biases[:, :1]).sum(2)


def has_shares(rules: BatchRules | None) -> bool:
    """Whether a rule `at_least` holds in a row of a batch: it needs the best items of a group."""
    return rules is not None and any(len(variant.groups) for variant, _ in rules.variants())


def pinned_ids(rules: BatchRules | None) -> list[int]:
    """Token ids of the items that rules pin in a row of a batch."""
    variants = [] if rules is None else rules.variants()
    return sorted({token for variant, _ in variants for token in variant.pins.values()})


def equal(ids: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(rows, n, m) whether (rows, n) ids are equal to (rows, m) others."""
    return ids.unsqueeze(2) == others.unsqueeze(1)


__all__ = ["IndexedRecommendationPipeline"]
