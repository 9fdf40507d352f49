"""Training and recommendation speed of other libraries' models on the same histories, for the benchmark scripts.

Each function of `PEERS` trains a model in the library's own loop, on the CPU and without loader workers. The model has
2 layers, 2 heads, hidden size 64, feed-forward size 256, dropout 0.2, masks on 20 % of the items and a softmax over
all items. The function takes the training part of each history as strings, oldest first, and returns

- `sequences_per_second`: training sequences of the timed steps, divided by their time with loading. A sequence is the
  end of a user's history, of `max_length` items; in RecBole it is a prefix of a history.
- `recommend_users_per_second`: the first `recommend_users` users, divided by the time of their top 10 through the
  library's own interface, with the trained model and the same batch size. The time excludes preparing the input.

Install the libraries with `pip install -r scripts/requirements-peers.txt`; `missing` checks that they are installed.
"""

import contextlib
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec

import numpy as np
import pandas as pd
from transformers import set_seed

MODULES = {"RecTools": ["rectools", "pytorch_lightning"], "RecBole": ["recbole"], "RePlay": ["replay", "lightning"]}
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
LIGHTNING = {"max_epochs": -1, "accelerator": "cpu", "devices": 1, **QUIET}
RECBOLE = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": "full"},
    "use_gpu": False,
    **{"n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256},
    **{"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "loss_type": "CE", "train_neg_sample_args": None},
    **{"mask_ratio": 0.2, "ft_ratio": 0.0},  # no batches in which only the last item is masked
}


class Clock:
    """Records the end of each training step and its number of sequences."""

    def __init__(self, steps: int, warmup_steps: int):
        if min(steps, warmup_steps) < 1:
            raise ValueError(f"steps and warmup_steps must be at least 1, got {steps} and {warmup_steps}")
        self.steps, self.warmup_steps = steps + warmup_steps, warmup_steps
        self.ends: list[float] = []
        self.sizes: list[int] = []

    def tick(self, size: int) -> None:
        self.ends.append(time.perf_counter())
        self.sizes.append(size)

    def watch(self, batches: Iterable) -> Iterator:
        """Yield the batches up to the last step; a step ends when the loop takes the next batch."""
        for batch in batches:
            if len(self.ends) == self.steps:
                return
            yield batch
            self.tick(len(batch))

    def results(self, users: int, recommend: Callable[[], object]) -> dict[str, float]:
        seconds = self.ends[-1] - self.ends[self.warmup_steps - 1]
        start = time.perf_counter()
        recommend()
        return {
            "sequences_per_second": sum(self.sizes[self.warmup_steps :]) / seconds,
            "recommend_users_per_second": users / (time.perf_counter() - start),
        }


def missing(peer: str) -> str | None:
    """How to install what one of `PEERS` needs; None if it is installed."""
    absent = [module for module in MODULES[peer.split()[0]] if find_spec(module) is None]
    if not absent:
        return None
    return f"{peer} needs {' and '.join(absent)}, not installed here: pip install -r scripts/requirements-peers.txt"


def prepare(peer: str, seed: int) -> None:
    """Seed this process and silence it; raise an error with the install command if the library is missing."""
    if message := missing(peer):
        raise ModuleNotFoundError(message)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    set_seed(seed)


def as_log(histories: list[list[str]]) -> pd.DataFrame:
    """A row for each interaction, with numbered users and the position in the history as its time."""
    lengths = [len(history) for history in histories]
    users, times = np.repeat(np.arange(len(histories)), lengths), np.concatenate([np.arange(n) for n in lengths])
    return pd.DataFrame({"user_id": users, "item_id": np.concatenate(histories), "timestamp": times})


def train_rectools(
    model_name: str, histories, *, max_length, batch_size, steps, warmup_steps, seed, recommend_users=1_000
) -> dict[str, float]:
    """`fit` and `recommend` of RecTools, which leaves out seen items and maps ids.

    The catalogue has only the last `max_length` items of each user. The feed-forward size of SASRec always equals the
    hidden size, 64. Users with one item are not used in training.
    """
    prepare("RecTools", seed)
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import LambdaCallback
    from rectools.dataset import Dataset
    from rectools.models import BERT4RecModel, SASRecModel

    def as_dataset(histories: list[list[str]]) -> Dataset:
        return Dataset.construct(as_log(histories).rename(columns={"timestamp": "datetime"}).assign(weight=1.0))

    clock = Clock(steps, warmup_steps)
    callback = LambdaCallback(on_train_batch_end=lambda *arguments: clock.tick(len(arguments[3]["x"])))
    model_class = {"BERT4Rec": partial(BERT4RecModel, mask_prob=0.2), "SASRec": SASRecModel}[model_name]
    model = model_class(
        **{"n_blocks": 2, "n_heads": 2, "n_factors": 64, "dropout_rate": 0.2, "loss": "softmax"},
        session_max_len=max_length,
        batch_size=batch_size,
        recommend_batch_size=batch_size,
        get_trainer_func=lambda: Trainer(max_steps=clock.steps, callbacks=[callback], **LIGHTNING),
    )
    model.fit(as_dataset(histories))
    users = np.arange(min(recommend_users, len(histories)))
    asked = as_dataset(histories[: len(users)])
    return clock.results(len(users), lambda: model.recommend(users, asked, k=10, filter_viewed=True))


def train_recbole(
    histories, *, max_length, batch_size, steps, warmup_steps, seed, recommend_users=1_000
) -> dict[str, float]:
    """`Trainer.fit` and `full_sort_topk` of RecBole, with mapping of ids.

    A sequence is a prefix of a history: a user with n items gives n - 1 sequences, so an epoch has about as many
    sequences as the log has rows. RecBole does not leave out seen items for sequential models.
    """
    prepare("RecBole", seed)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import BERT4Rec
    from recbole.trainer import Trainer
    from recbole.utils.case_study import full_sort_topk

    class TimedTrainer(Trainer):
        def _train_epoch(self, train_data, *args, **kwargs):
            return super()._train_epoch(clock.watch(train_data), *args, **kwargs)

    clock = Clock(steps, warmup_steps)
    log = as_log([[*history, history[0]] for history in histories])  # RecBole needs a test item, the last one
    log.columns = ["user_id:token", "item_id:token", "timestamp:float"]
    options = {"MAX_ITEM_LIST_LENGTH": max_length, "train_batch_size": batch_size, "seed": seed}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # RecBole writes to the working directory
        os.mkdir("log")
        log.to_csv("log/log.inter", sep="\t", index=False)
        config = Config("BERT4Rec", "log", config_dict={**RECBOLE, **options, "data_path": folder})
        train_data, _, test_data = data_preparation(config, create_dataset(config))
        config["epochs"] = math.ceil(clock.steps / len(train_data))
        model = BERT4Rec(config, train_data.dataset)
        TimedTrainer(config, model).fit(train_data, saved=False, verbose=False)

    users = [str(user) for user in range(min(recommend_users, len(histories)))]

    def recommend() -> None:
        for start in range(0, len(users), batch_size):
            batch = test_data.dataset.token2id("user_id", users[start : start + batch_size])
            _, top = full_sort_topk(batch, model, test_data, k=10)
            test_data.dataset.id2token("item_id", top)

    return clock.results(len(users), recommend)


def train_replay(
    histories, *, max_length, batch_size, steps, warmup_steps, seed, recommend_users=1_000
) -> dict[str, float]:
    """`Trainer.fit` and `Trainer.predict` of RePlay; `CE_restricted` scores only the masked positions.

    The head shares the item embeddings, which is less work than RePlay's default. `RemoveSeenItems` leaves out seen
    items, a callback ranks, and the ids of the items are mapped.
    """
    prepare("RePlay", seed)
    from lightning import Trainer
    from lightning.pytorch.callbacks import LambdaCallback
    from replay.data import FeatureHint, FeatureType
    from replay.data.nn import PandasSequentialDataset, TensorFeatureInfo, TensorSchema
    from replay.models.nn.sequential import Bert4Rec
    from replay.models.nn.sequential.bert4rec import Bert4RecPredictionDataset, Bert4RecTrainingDataset
    from replay.models.nn.sequential.callbacks import PandasPredictionCallback
    from replay.models.nn.sequential.postprocessors import RemoveSeenItems
    from torch.utils.data import DataLoader, Subset

    log = as_log(histories)
    log["item_id"], names = pd.factorize(log["item_id"])
    feature = {"is_seq": True, "feature_hint": FeatureHint.ITEM_ID, "cardinality": len(names), "embedding_dim": 64}
    schema = TensorSchema(TensorFeatureInfo("item_id", FeatureType.CATEGORICAL, **feature))
    lists = log.groupby("user_id")["item_id"].agg(list).reset_index()
    sequences = PandasSequentialDataset(schema, "user_id", "item_id", lists)
    model = Bert4Rec(
        schema,
        **{"block_count": 2, "head_count": 2, "hidden_size": 64, "dropout_rate": 0.2, "max_seq_len": max_length},
        enable_embedding_tying=True,
        loss_type="CE_restricted",
    )
    clock = Clock(steps, warmup_steps)
    callback = LambdaCallback(on_train_batch_end=lambda *arguments: clock.tick(len(arguments[3]["query_id"])))
    train_data = Bert4RecTrainingDataset(sequences, max_length, mask_prob=0.2)
    loader = DataLoader(train_data, batch_size, shuffle=True)
    Trainer(max_steps=clock.steps, callbacks=[callback], **LIGHTNING).fit(model, loader)

    users = min(recommend_users, len(histories))
    asked = DataLoader(Subset(Bert4RecPredictionDataset(sequences, max_length), range(users)), batch_size)
    top = PandasPredictionCallback(10, "user_id", "item_id", postprocessors=[RemoveSeenItems(sequences)])
    trainer = Trainer(callbacks=[top], **LIGHTNING)

    def recommend() -> None:
        trainer.predict(model, asked, return_predictions=False)
        names[top.get_result()["item_id"].astype(int)]

    return clock.results(users, recommend)


PEERS: dict[str, Callable[..., dict[str, float]]] = {
    "RecTools BERT4Rec": partial(train_rectools, "BERT4Rec"),
    "RecTools SASRec": partial(train_rectools, "SASRec"),
    "RecBole BERT4Rec, prefixes": train_recbole,
    "RePlay Bert4Rec, CE_restricted": train_replay,
}
