"""`pipeline("recommendation")`: raw item ids in, a ranked list of item ids out."""

from array import array
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from itertools import chain, islice
from math import floor, isfinite
from numbers import Real
from operator import itemgetter

import torch
from transformers import Pipeline

from .ranking_bert4rec import top_items

UNKNOWN_GAP = -1


class RecommendationPipeline(Pipeline):
    """Recommends the items that may follow a history.

    A call takes a history, a list of item ids with the oldest first, and returns a list of `{"item_id", "score"}`,
    best first; a list of histories gives a list of such lists, a generator an iterator over them. Ids that the model
    does not know are skipped; a history in a list of them, or in a dictionary, may be empty. Scores are logits: they
    order the items for one history.

    For a model with `config.use_time_gaps` a history may be `{"item_ids": [...], "timestamps": [...], "time": ...}`,
    with the times of its items and of the request. They are as in the training data: dates and datetimes (naive ones
    are UTC) or seconds since 1970 if it had such, else numbers in its unit. The model does without what is not given.

    Args (of a call, or of `pipeline(...)` as defaults):
        top_k: Length of the lists; shorter if fewer items are left.
        exclude_seen: Whether items of the history are left out; `config.exclude_seen` of the model if None.
        candidates: Item ids to choose from; the whole catalogue if None.
        blocked: Item ids that are left out.
        batch_size: Histories that are computed together.

    Raises:
        TypeError: for item ids that are not strings, or a history that is not a list.
        ValueError: for an empty list, a `top_k` below 1, candidates of which none is known, or timestamps that are
            not in order, not as many as items, or not read by the model.
    """

    _load_tokenizer = True

    def __init__(self, *args, batch_size: int = 64, **kwargs):
        super().__init__(*args, batch_size=batch_size, **kwargs)
        if len(self.tokenizer) != self.model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens and the model {self.model.config.vocab_size}: they "
                "do not belong together; load both from one folder"
            )
        if isinstance(self.model, torch.nn.Module):
            self.model.eval()
        vocabulary = self.tokenizer.get_vocab()
        self.item_of_id = {index: item for item, index in vocabulary.items()}
        special = set(self.model.config.special_token_ids)
        self.id_of_item = {item: index for item, index in vocabulary.items() if index not in special}

    def _sanitize_parameters(self, top_k=None, exclude_seen=None, candidates=None, blocked=None):
        preprocess, forward = {}, {}
        if top_k is not None:
            if top_k < 1:
                raise ValueError(f"top_k must be at least 1, got {top_k}")
            forward["top_k"] = top_k
        if exclude_seen is not None:
            preprocess["exclude_seen"] = exclude_seen
        if candidates is not None:
            forward["candidates"] = check_items(candidates, "candidates")
        if blocked is not None:
            preprocess["blocked"] = check_items(blocked, "blocked")
        return preprocess, forward, {}

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            raise TypeError(
                f"a history is a list of item ids, such as ['item', 'item'], got {inputs!r} ({type(inputs).__name__})"
            )
        if isinstance(inputs, dict):
            return super().__call__(inputs, **kwargs)
        if hasattr(inputs, "__len__"):
            inputs = list(inputs)
            if not inputs:
                raise ValueError("an empty list: give item ids, or histories, as [[]] for a user without one")
            if not isinstance(inputs[0], (list, tuple, dict)):
                return super().__call__(tuple(inputs), **kwargs)  # the parent class takes a list for a batch
            return self.by_length(inputs, **kwargs)
        return super().__call__(inputs, **kwargs)

    def by_length(self, histories, **kwargs):
        """The lists of histories, of which those of similar length are computed together."""
        items = (history.get("item_ids") if isinstance(history, dict) else history for history in histories)
        lengths = [len(history) if hasattr(history, "__len__") else 0 for history in items]
        order = sorted(range(len(histories)), key=lengths.__getitem__)
        lists = super().__call__([histories[index] for index in order], **kwargs)
        return [ranked for _, ranked in sorted(zip(order, lists, strict=True), key=itemgetter(0))]

    def run_single(self, inputs, *parameters):
        return super().run_single([inputs], *parameters)[0]

    def get_iterator(self, inputs, _num_workers, batch_size, *parameters):
        inputs = iter(inputs)
        while batch := list(islice(inputs, batch_size)):
            yield from super().run_single(batch, *parameters)

    def get_inference_context(self):
        return torch.inference_mode

    def preprocess(self, histories, exclude_seen=None, blocked=()):
        config, blocked = self.model.config, self.known_ids(blocked)
        exclude_seen = config.exclude_seen if exclude_seen is None else exclude_seen
        known, gaps = zip(*map(self.read, histories), strict=True)
        room, pad = config.max_position_embeddings - 1, config.pad_token_id

        def rows(column, mask):
            recent = (row[max(len(row) - room, 0) :] for row in column)
            return [(row or [mask]) if config.is_decoder else [*row, mask] for row in recent]

        input_ids, attention_mask = pad_rows(rows(known, config.mask_token_id), pad)
        banned_ids, _ = pad_rows([[*{*ids, *blocked}] if exclude_seen else blocked for ids in known], pad)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "banned_ids": banned_ids}
        if config.use_time_gaps:
            inputs["time_gaps"], _ = pad_rows(rows(gaps, UNKNOWN_GAP), UNKNOWN_GAP)
        return inputs

    def read(self, history):
        """Ids of the known items of a history, and the time from each to the next."""
        if not isinstance(history, dict):
            ids = self.known_ids(check_items(history, "a history"))
            return ids, [UNKNOWN_GAP] * len(ids)
        if not history.keys() <= {"item_ids", "timestamps", "time"}:
            raise ValueError(f"a history has 'item_ids', 'timestamps' and 'time', got {list(history)}")
        if len(history) > 1 and not self.model.config.use_time_gaps:
            raise ValueError("the model reads no times (config.use_time_gaps is False); give the item ids alone")
        items = check_items(history.get("item_ids"), "a history")
        times = [*map(whole_time, history.get("timestamps", [None] * len(items)))]
        if len(times) != len(items):
            raise ValueError(f"a history has a timestamp for each item, got {len(times)} for {len(items)} items")
        known = [
            (self.id_of_item[item], time) for item, time in zip(items, times, strict=True) if item in self.id_of_item
        ]
        ends = [*(time for _, time in known[1:]), whole_time(history.get("time"))]
        return [index for index, _ in known], [gap(time, end) for (_, time), end in zip(known, ends, strict=False)]

    def _forward(self, inputs, top_k=10, candidates=None):
        return self.rank(next_scores(self.model, **inputs), top_k, candidates)

    def rank(self, scores, top_k, candidates):
        if candidates is not None:
            known = list(dict.fromkeys(self.known_ids(candidates)))
            if not known:
                raise ValueError(f"none of the {len(candidates)} candidates is in the catalogue of the model")
            candidates = torch.tensor(known, device=self.device)
        ids, scores = top_items(scores, top_k, candidates)
        return {"ids": ids, "scores": scores}

    def postprocess(self, outputs):
        return [
            [
                {"item_id": self.item_of_id[index], "score": score}
                for index, score in zip(ids, scores, strict=True)
                if score > -torch.inf
            ]
            for ids, scores in zip(outputs["ids"].tolist(), outputs["scores"].tolist(), strict=True)
        ]

    def known_ids(self, items):
        ids = list(map(self.id_of_item.get, items))
        return ids if None not in ids else [index for index in ids if index is not None]


def next_scores(model, input_ids, attention_mask, banned_ids, time_gaps=None) -> torch.Tensor:
    """(batch, vocab_size) scores of the items after histories that are padded on the right."""
    return model(
        input_ids=input_ids,
        attention_mask=None if model.config.is_decoder else attention_mask,  # a decoder reads no padding after an item
        banned_ids=banned_ids,
        time_gaps=time_gaps,
        logits_to_keep=attention_mask.sum(-1, keepdim=True) - 1,
        use_cache=False,
    ).logits[:, 0]


def whole_time(time) -> int | None:
    """Seconds since 1970 of dates and datetimes, naive ones in UTC; numbers and these without their fraction.

    Example:
        >>> whole_time(datetime(1970, 1, 2, 0, 0, 1, 999_999)), whole_time(date(1970, 1, 2)), whole_time(2.5)
        (86401, 86400, 2)
    """
    if time is None:
        return None
    seconds = time
    if isinstance(time, date):
        moment = time if isinstance(time, datetime) else datetime(time.year, time.month, time.day)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not isinstance(seconds, Real) or not isfinite(seconds):
        raise TypeError(f"times are numbers, dates or datetimes, got {time!r} ({type(time).__name__})")
    return floor(seconds)


def gap(start: int | None, end: int | None) -> int:
    """Time from one event to the next."""
    if start is None or end is None:
        return UNKNOWN_GAP
    if end < start:
        raise ValueError(f"timestamps are in order, the oldest first, and the request after them; got {start}, {end}")
    return end - start


def pad_rows(
    rows: Sequence[Sequence[int]], pad_token_id: int, side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, longest row) ids, padded on a side, and their attention mask.

    Example:
        >>> pad_rows([[3, 4, 5], [6]], pad_token_id=0, side="left")
        (tensor([[3, 4, 5],
                [0, 0, 6]]), tensor([[1, 1, 1],
                [0, 0, 1]]))
    """
    lengths = torch.tensor([len(row) for row in rows]).unsqueeze(1)
    width = int(lengths.max())
    real = torch.arange(width) >= width - lengths if side == "left" else torch.arange(width) < lengths
    ids = torch.frombuffer(array("q", [*chain.from_iterable(rows), pad_token_id]), dtype=torch.long)  # never empty
    return torch.full(real.shape, pad_token_id).masked_scatter_(real, ids), real.long()


def check_items(items, name: str):
    """The items, if they are a list of strings."""
    if isinstance(items, (str, dict)) or not isinstance(items, Iterable):
        raise TypeError(f"{name} must be a list of item ids, got {items!r} ({type(items).__name__})")
    items = list(items)
    if not all(issubclass(kind, str) for kind in {*map(type, items)}):
        wrong = next(item for item in items if not isinstance(item, str))
        raise TypeError(f"item ids are strings, got {wrong!r} ({type(wrong).__name__})")
    return items


__all__ = ["RecommendationPipeline", "next_scores", "pad_rows"]
