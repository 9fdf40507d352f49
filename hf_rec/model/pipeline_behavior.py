"""`pipeline("behavior-prediction")`: raw item ids in, labels with their probabilities out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from .inputs import build_targets
from .pipeline_bert4rec import HistoryPipeline, as_row, check_count, check_items

logger = logging.get_logger(__name__)

ITEM, SEVERAL = "item", "items"


class BehaviorPredictionPipeline(HistoryPipeline):
    """Predicts a label of what a user does.

    A call takes a history, or a list of them, as [`RecommendationPipeline`] does. A model that predicts a label of an
    event needs to know its item: the history is a dictionary with `"item"`, or with several `"items"`, each of which
    gets an answer of its own as if it came next: `{"item_ids": [...], "rating": [...], "item": "sku-1", "request":
    {"country": "FR"}}`. `request` holds what is known of the event beside the item. A model that predicts a label of
    the user, or of the next event without its item, takes none.

    An answer is a list of `{"label", "score"}`, the most probable label first, as in text classification. The score is
    a probability, or for a regression the number itself.

    Args (of a call, or of `pipeline(...)` as defaults):
        top_k: Number of labels; 1 by default, all if None.
        batch_size: Histories that are computed together, at most; on a CPU never more than 64.

    Raises:
        TypeError: for item ids that are not strings, or a history that is not a list.
        ValueError: for an item where the model takes none, or none where it needs one, and as
            [`RecommendationPipeline`].
    """

    options = (ITEM, SEVERAL)
    predicts_labels = True

    def _sanitize_parameters(self, top_k=""):
        """As text classification does it, where None is a value of `top_k`."""
        if top_k == "":
            return {}, {}, {}
        return {}, {}, {"top_k": top_k if top_k is None else check_count(top_k, "top_k")}

    def preprocess(self, histories):
        rows, codes, counts = [], [], []
        for history in map(as_row, histories):
            ids, event_features = self.read(history)
            targets = self.targets(history)
            rows += [[*ids, target] for target in targets]
            codes += [event_features] * len(targets)
            counts.append(len(targets) if SEVERAL in history else None)
        return {"counts": counts} | build_targets(self.model.config, rows, codes)

    def targets(self, row: Mapping[str, Any]) -> list[int]:
        """Token ids of the items whose events are to be labelled; the mask where no item is known."""
        config = self.model.config
        given = [name for name in self.options if name in row]
        if config.label_of != "event":
            if given:
                raise ValueError(f"the model predicts a label of the {config.label_of} and takes no item; got {given}")
            return [config.mask_token_id]
        if len(given) != 1:
            raise ValueError(
                f"the model predicts a label of an event: give its item as {ITEM!r}, or several as {SEVERAL!r}; got "
                f"{given or 'neither'}"
            )
        items = check_items(row[SEVERAL] if SEVERAL in row else [row[ITEM]], given[0])
        if not items:
            raise ValueError(f"{SEVERAL!r} is empty; give at least one item")
        if unknown := [item for item in items if item not in self.id_of_item]:
            logger.warning(
                f"{len(unknown)} of {len(items)} items are unknown to the model, such as {unknown[0]!r}; all of them "
                "get the answer of an unknown item"
            )
        return [self.id_of_item.get(item, config.unk_token_id) for item in items]

    def _forward(self, inputs):
        counts = inputs.pop("counts")
        return {"counts": counts, "logits": self.model(**inputs).logits}

    def postprocess(self, outputs, top_k=1):
        answers = iter([self.answer(scores, top_k) for scores in self.scores(outputs["logits"])])
        return [
            next(answers) if count is None else [next(answers) for _ in range(count)] for count in outputs["counts"]
        ]

    def scores(self, logits: torch.Tensor) -> np.ndarray:
        """(rows, labels) probabilities, or the numbers of a regression."""
        if logits.isnan().any():
            raise ValueError("the logits of the model are not finite; its weights or the data type are broken")
        config, logits = self.model.config, logits.float()
        if config.problem_type == "regression":
            return logits.numpy()
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return logits.sigmoid().numpy()
        return logits.softmax(-1).numpy()

    def answer(self, scores: np.ndarray, top_k: int | None) -> list[dict[str, Any]]:
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [{"label": self.model.config.id2label[int(index)], "score": float(scores[index])} for index in best]


__all__ = ["BehaviorPredictionPipeline"]
