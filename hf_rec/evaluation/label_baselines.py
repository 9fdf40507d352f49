"""What a classifier has to beat: the share of each label, and learners on counts of the history.

They read the rows of [`tokenize_labels`], so they see the events, features and labels that the model sees.
"""

from collections.abc import Callable

import numpy as np
from datasets import Dataset, DatasetDict

from ..data.columns import as_array, is_list, list_lengths
from ..data.labels import MISSING
from ..data.splits import places
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.item_table import ItemContent
from .label_metrics import label_metrics

FOLDS = 5  # of the training users, for the shares of an item
SMOOTHING = 10  # rows with the mean label that every share starts with
WIDEST = 64  # codes of a feature that get a column each
MOST_ROWS = 200_000  # that the learners are trained on

Learner = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class CountFeatures:
    """Counts of a history, for learners that read no sequences.

    For a target: the length of its history; the share of each label so far, of the user; the share of each label of
    its item, in training, of other users; the share of each value of the `event` columns so far; the columns of the
    request; and the categories of its item. Of a feature with many codes the mean code counts, not the shares.

    Args:
        train: The training split, as [`tokenize_labels`] returns it.
        config: Of the model.
        content: Of the items, or None.
    """

    def __init__(self, train: Dataset, config: Bert4RecConfig, content: ItemContent | None = None):
        self.columns, self.num_labels = config.columns, config.num_labels
        self.of_items = config.label_of == "event"
        self.content = content if self.of_items else None
        vocab_size = config.vocab_size
        events = Events(train, len(self.columns))
        self.mean = self.values_of(events.labels[events.labels != MISSING]).mean(0)
        self.folds = np.random.default_rng(0).integers(FOLDS, size=len(train))[events.row]
        known = events.labels != MISSING
        self.sums = np.zeros((FOLDS, vocab_size, len(self.mean)))
        self.counts = np.zeros((FOLDS, vocab_size, 1))
        np.add.at(self.sums, (self.folds[known], events.ids[known]), self.values_of(events.labels[known]))
        np.add.at(self.counts, (self.folds[known], events.ids[known]), 1)

    def values_of(self, labels: np.ndarray) -> np.ndarray:
        """(n, classes) indicators of the labels, or (n, 1) numbers."""
        return labels[:, None].astype(np.float64) if self.num_labels == 1 else np.eye(self.num_labels)[labels]

    def __call__(self, split: Dataset, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(targets, columns) counts and (targets,) labels of a split; of training at most `MOST_ROWS`, at random."""
        events = Events(split, len(self.columns))
        targets = np.flatnonzero(events.labels != MISSING) if training else events.last
        if training and len(targets) > MOST_ROWS:
            targets = np.sort(np.random.default_rng(0).choice(targets, MOST_ROWS, replace=False))
        labels = events.labels[targets] if training else as_array(split["labels"]).to_numpy()
        known = events.labels != MISSING
        if not training:
            known[events.last] = False
        values = np.zeros((len(known), len(self.mean)))
        values[known] = self.values_of(events.labels[known])
        folds = self.folds[targets] if training else None
        parts = [
            np.log1p(events.place[targets])[:, None],
            smooth(events.so_far(values)[targets], events.so_far(known[:, None])[targets], self.mean),
        ]
        if self.of_items:
            parts.append(self.shares_of_items(events.ids[targets], folds))
        parts += [self.column(events, number, targets) for number in range(len(self.columns))]
        if self.content is not None:
            parts.append(categories(self.content, events.ids[targets]))
        return np.concatenate([part.astype(np.float32) for part in parts], axis=1), labels

    def shares_of_items(self, ids: np.ndarray, folds: np.ndarray | None) -> np.ndarray:
        """(targets, classes) shares of the labels of the items and how often they occur, without those of the fold of
        a training row."""
        sums, counts = self.sums.sum(0)[ids], self.counts.sum(0)[ids]
        if folds is not None:
            sums, counts = sums - self.sums[folds, ids], counts - self.counts[folds, ids]
        return np.concatenate([smooth(sums, counts, self.mean), np.log1p(counts)], axis=1)

    def column(self, events: "Events", number: int, targets: np.ndarray) -> np.ndarray:
        """A feature at the targets: its code at the request, or the share of its codes in the events so far."""
        feature = self.columns.features[number]
        codes = events.codes[:, number]
        indicators = np.eye(feature.size)[codes] if feature.size <= WIDEST else codes[:, None].astype(np.float64)
        if self.columns.of_event[number]:
            return events.so_far(indicators)[targets] / np.maximum(events.place[targets], 1)[:, None]
        return np.concatenate([indicators[targets], codes[targets][:, None]], axis=1)


class Events:
    """The positions of all rows of a split, one after another.

    Attributes:
        ids: (positions,) token ids.
        row, place: (positions,) their row, and their number in it.
        last: (rows,) the last position of each row.
        codes: (positions, columns) codes of the features.
        labels: (positions,) labels, -100 where there is none.
    """

    def __init__(self, split: Dataset, columns: int):
        lists = as_array(split["input_ids"])
        lengths = list_lengths(lists)
        self.ids = lists.flatten().to_numpy().astype(np.int64)
        self.row = np.repeat(np.arange(len(lengths)), lengths)
        self.starts = np.cumsum(lengths) - lengths
        self.place = places(lengths)
        self.last = self.starts + lengths - 1
        self.codes = np.zeros((len(self.ids), 0), dtype=np.int64)
        if columns:
            codes = as_array(split["event_features"]).flatten().flatten()
            self.codes = codes.to_numpy().reshape(-1, columns).astype(np.int64)
        self.labels = np.full(len(self.ids), MISSING)
        lists = as_array(split["event_labels" if "event_labels" in split.column_names else "labels"])
        if is_list(lists.type):
            given, counts = lists.flatten().to_numpy(), list_lengths(lists)
            rows = np.repeat(np.arange(len(counts)), counts)
            self.labels = self.labels.astype(given.dtype)
            self.labels[self.starts[rows] + places(counts)] = given

    def so_far(self, values: np.ndarray) -> np.ndarray:
        """(positions, n) sums of the values of the positions before, of the same row."""
        before = np.cumsum(values, axis=0, dtype=np.float64) - values
        return before - before[self.starts][self.row]


def smooth(sums: np.ndarray, counts: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Means of the counted rows and of `SMOOTHING` rows with the mean label."""
    return (sums + SMOOTHING * mean) / (counts + SMOOTHING)


def categories(content: ItemContent, ids: np.ndarray) -> np.ndarray:
    """(targets, codes) indicators of the categories of items, of features with few of them."""
    codes = content.codes.numpy()[ids]
    parts, column, offset = [], 0, 0
    for feature in content.coded:
        own = codes[:, column : column + feature.code_columns]
        if feature.size <= WIDEST:
            indicators = np.zeros((len(ids), feature.size - 1))
            rows, places = np.nonzero(own)
            indicators[rows, own[rows, places] - offset - 1] = 1
            parts.append(indicators)
        column, offset = column + feature.code_columns, offset + feature.size - 1
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(ids), 0))


def prior(_counts: np.ndarray, labels: np.ndarray, others: np.ndarray, num_labels: int) -> np.ndarray:
    """The share of each class in training, or the mean of the numbers."""
    shares = np.array([labels.mean()]) if num_labels == 1 else np.bincount(labels, minlength=num_labels) / len(labels)
    return np.tile(shares, (len(others), 1))


def logistic_regression(counts: np.ndarray, labels: np.ndarray, others: np.ndarray, num_labels: int) -> np.ndarray:
    """A logistic regression on scaled counts, or a ridge regression of numbers."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learner = Ridge() if num_labels == 1 else LogisticRegression(max_iter=300)
    return predict(make_pipeline(StandardScaler(), learner).fit(counts, labels), others, num_labels)


def gradient_boosting(counts: np.ndarray, labels: np.ndarray, others: np.ndarray, num_labels: int) -> np.ndarray:
    """Gradient boosting of trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if num_labels == 1 else HistGradientBoostingClassifier
    return predict(kind(random_state=0, early_stopping=True).fit(counts, labels), others, num_labels)


def predict(learner, counts: np.ndarray, num_labels: int) -> np.ndarray:
    """(rows, classes) probabilities, also of classes that training lacks, or (rows, 1) numbers."""
    if num_labels == 1:
        return learner.predict(counts)[:, None]
    predicted = np.zeros((len(counts), num_labels))
    predicted[:, learner.classes_] = learner.predict_proba(counts)
    return predicted


LABEL_BASELINES = {
    "prior": prior,
    "logistic regression": logistic_regression,
    "gradient boosting": gradient_boosting,
}


def evaluate_label_baselines(
    rows: DatasetDict, config: Bert4RecConfig, content: ItemContent | None = None
) -> dict[str, dict[str, float]]:
    """Test metrics of the baselines, by name; the arguments are those of [`CountFeatures`]."""
    counts_of, num_labels = CountFeatures(rows["train"], config, content), config.num_labels
    counts, labels = counts_of(rows["train"], training=True)
    test, test_labels = counts_of(rows["test"])
    return {
        name: label_metrics(baseline(counts, labels, test, num_labels), test_labels)
        for name, baseline in LABEL_BASELINES.items()
    }


__all__ = ["LABEL_BASELINES", "CountFeatures", "evaluate_label_baselines"]
