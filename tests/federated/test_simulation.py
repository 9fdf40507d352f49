"""Whole rounds with real clients: exact means, secure aggregation, seeds, bytes."""

import copy
from collections import Counter
from functools import partial

import numpy as np
import pytest

pytest.importorskip("flwr")

from conftest import small_model, without_dropout
from datasets import DatasetDict
from runs import SIZES, shop_splits
from test_local_training import HISTORIES, TOKENIZER, descend, tokenized_of

from hf_rec import RecommendationCollator
from hf_rec.data import tokenize_splits
from hf_rec.evaluation import evaluate
from hf_rec.federated import simulation
from hf_rec.federated.catalogue import model_of_catalogue
from hf_rec.federated.local import get_weights
from hf_rec.federated.settings import FederatedSettings
from hf_rec.federated.simulation import LocalGrid, simulate, split_by_client
from hf_rec.training import Hooks, create_model, fit

ONE_STEP = {"rounds": 1, "local_learning_rate": 0.1, "strategy": "fedavg"}


@pytest.fixture
def model(monkeypatch):
    plain = partial(RecommendationCollator, start_probability=0.0)
    monkeypatch.setattr("hf_rec.federated.local.fit", partial(fit, hooks=Hooks(collator=plain)))
    return without_dropout(small_model(len(TOKENIZER), is_decoder=True)).double()


def parts_of(*groups) -> list[DatasetDict]:
    return [tokenized_of(group) for group in groups]


@pytest.mark.parametrize(
    "groups", [(HISTORIES[:1], HISTORIES[1:]), (HISTORIES[:3], HISTORIES[3:]), [[row] for row in HISTORIES]]
)
def test_one_step_of_clients_is_one_step_on_all_their_histories(model, groups):
    expected = descend(copy.deepcopy(model), HISTORIES, rate=0.1)
    history = simulate(
        model, TOKENIZER, parts_of(*groups), FederatedSettings(clients_per_round=len(groups), **ONE_STEP)
    )
    found = get_weights(model)
    assert all(np.allclose(found[name], expected[name], atol=1e-12) for name in expected)
    assert history[0]["accepted"] == len(groups)


def test_the_item_table_and_every_layer_are_trained(model):
    before = get_weights(model)
    simulate(
        model, TOKENIZER, parts_of(HISTORIES[:2], HISTORIES[2:]), FederatedSettings(clients_per_round=2, **ONE_STEP)
    )
    after = get_weights(model)
    assert [name for name in before if (before[name] == after[name]).all()] == []


def test_rounds_draw_clients_in_turns_of_chance(monkeypatch):
    drawn = Counter()
    deliver = LocalGrid.deliver

    def count(self, message):
        drawn[self.contexts[message.metadata.dst_node_id].node_config["partition-id"]] += 1
        return deliver(self, message)

    monkeypatch.setattr(LocalGrid, "deliver", count)
    model = small_model(len(TOKENIZER), is_decoder=True)
    parts = parts_of(*[[row] for row in HISTORIES])
    simulate(model, TOKENIZER, parts, FederatedSettings(rounds=8, clients_per_round=2))
    assert sum(drawn.values()) == 16 and len(drawn) == 4 and max(drawn.values()) < 8


def test_a_seed_gives_the_run_again_and_another_seed_another():
    runs = []
    for seed in (0, 0, 1):
        model = small_model(len(TOKENIZER), is_decoder=True)
        parts = parts_of(*[[row] for row in HISTORIES])
        settings = FederatedSettings(rounds=2, clients_per_round=2, seed=seed, clipping_norm=1.0, noise_multiplier=0.1)
        history = simulate(model, TOKENIZER, parts, settings)
        runs.append((get_weights(model), history))
    (first, history), (again, history_again), (other, _) = runs
    assert all((first[name] == again[name]).all() for name in first) and history == history_again
    assert any((first[name] != other[name]).any() for name in first)


def test_secure_aggregation_gives_the_mean_to_the_precision_of_its_whole_numbers(model, monkeypatch):
    parts = parts_of(*[[row, row] for row in HISTORIES])
    plain, secured = model.float(), copy.deepcopy(model.float())
    settings = {"clients_per_round": 4, "clipping_norm": 0.3} | ONE_STEP
    (row,) = simulate(secured, TOKENIZER, parts, FederatedSettings(secure_aggregation=True, **settings))
    monkeypatch.setattr(FederatedSettings, "is_uniform", True)
    simulate(plain, TOKENIZER, parts, FederatedSettings(**settings))
    assert (row["drawn"], row["accepted"]) == (4, 4)
    step = 16 / 2**22  # of the whole numbers, for weights from -8 to 8
    found, expected = get_weights(secured), get_weights(plain)
    assert all(np.allclose(found[name], expected[name], atol=step) for name in expected)


class Leaving(LocalGrid):
    """Client 1 of the grid leaves before it answers message number `step` of a round."""

    step = 0

    def send_and_receive(self, messages, *, timeout=None):
        self.seen = getattr(self, "seen", -1) + 1
        stay = [message for message in messages if self.seen < self.step or message.metadata.dst_node_id != 3]
        return super().send_and_receive(stay, timeout=timeout)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_secure_aggregation_goes_on_without_a_client_that_leaves(step, model, monkeypatch):
    """A client that leaves before it sends is not in the mean; one that leaves at the end is."""
    monkeypatch.setattr(simulation, "LocalGrid", type("Leaving", (Leaving,), {"step": step}))
    parts = parts_of(*[[row] for row in (*HISTORIES, *HISTORIES)])
    other = copy.deepcopy(model.float())
    history = simulate(
        model, TOKENIZER, parts, FederatedSettings(clients_per_round=8, secure_aggregation=True, **ONE_STEP)
    )
    monkeypatch.setattr(simulation, "LocalGrid", LocalGrid)
    stayed = parts if step == 3 else parts[:1] + parts[2:]
    monkeypatch.setattr(FederatedSettings, "is_uniform", True)
    simulate(other, TOKENIZER, stayed, FederatedSettings(clients_per_round=len(stayed), **ONE_STEP))
    assert (history[0]["accepted"], history[0]["dropped"]) == (len(stayed), 8 - len(stayed))
    found, expected = get_weights(model), get_weights(other)
    assert all(np.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_the_server_sees_no_weights_of_a_client_with_secure_aggregation(monkeypatch):
    seen = []
    deliver = LocalGrid.deliver

    def watch(self, message):
        seen.append(deliver(self, message))
        return seen[-1]

    monkeypatch.setattr(LocalGrid, "deliver", watch)
    model = small_model(len(TOKENIZER), is_decoder=True)
    settings = FederatedSettings(clients_per_round=4, secure_aggregation=True, **ONE_STEP)
    simulate(model, TOKENIZER, parts_of(*[[row] for row in HISTORIES]), settings)
    assert len(seen) == 16
    assert not [
        array for reply in seen for record in reply.content.array_records.values() for array in record.values()
    ]


def test_bytes_are_those_of_the_weights():
    model = small_model(len(TOKENIZER), is_decoder=True)
    size = 4 * sum(weights.numel() for weights in model.parameters())
    settings = FederatedSettings(rounds=2, clients_per_round=3)
    history = simulate(model, TOKENIZER, parts_of(*[[row] for row in HISTORIES]), settings)
    overhead = 300 * len([*model.parameters()])
    assert all(3 * size < row[way] < 3 * (size + overhead) for row in history for way in ("sent", "received"))


def test_a_client_of_another_vocabulary_refuses():
    model = small_model(len(TOKENIZER) + 1, is_decoder=True)
    clients = parts_of(*[[row] for row in HISTORIES])
    before = get_weights(model)
    work = simulation.client_app

    def other_model(open_client, mods):
        def opened(context):
            client = open_client(context)
            client.model = small_model(len(TOKENIZER), is_decoder=True)
            return client

        return work(opened, mods)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "client_app", other_model)
        (row,) = simulate(model, TOKENIZER, clients, FederatedSettings(rounds=1, clients_per_round=2))
    assert (row["failed"], row["accepted"]) == (2, 0)
    assert all((get_weights(model)[name] == before[name]).all() for name in before)


def test_clients_measure_what_an_evaluation_of_all_does_and_training_helps():
    splits = shop_splits()
    model, tokenizer = create_model(splits, SIZES | {"is_decoder": True}, max_length=16)
    tokenized = tokenize_splits(splits, tokenizer)
    clients = split_by_client(tokenized, {user: hash(user) % 5 for user in splits["train"]["user_id"]})
    before = evaluate(model, tokenized)["ndcg@10"]
    settings = FederatedSettings(rounds=12, clients_per_round=4, evaluate_every=6, server_learning_rate=0.03)
    history = simulate(model, tokenizer, clients, settings)
    assert [row["round"] for row in history if "validation_mrr" in row] == [6]
    after = evaluate(model, tokenized)
    assert history[-1]["test_ndcg@10"] == pytest.approx(after["ndcg@10"], abs=1e-6)
    assert after["ndcg@10"] > before + 0.02


def test_each_user_belongs_to_one_client_and_nothing_is_lost():
    splits = shop_splits()
    _, tokenizer = create_model(splits, SIZES | {"is_decoder": True}, max_length=16)
    tokenized = tokenize_splits(splits, tokenizer)
    owners = {user: number % 7 for number, user in enumerate(splits["train"]["user_id"])}
    parts = split_by_client(tokenized, owners)
    assert len(parts) == 7
    for name, split in tokenized.items():
        rows = [row for part in parts for row in part[name].to_list()]
        assert sorted(rows, key=lambda row: row["user_id"]) == sorted(split.to_list(), key=lambda row: row["user_id"])
        assert all(len({owners[user] for user in part[name]["user_id"]}) <= 1 for part in parts)
    assert len(split_by_client(tokenized)) == len(tokenized["train"])
    del owners[splits["train"]["user_id"][3]]
    with pytest.raises(ValueError, match="has no client"):
        split_by_client(tokenized, owners)


def test_more_clients_in_a_round_than_there_are_is_an_error():
    model = small_model(len(TOKENIZER), is_decoder=True)
    with pytest.raises(ValueError, match="needs 3 clients, there are 2"):
        simulate(model, TOKENIZER, parts_of(HISTORIES[:1], HISTORIES[1:]), FederatedSettings(clients_per_round=3))


def test_a_catalogue_whose_rows_are_trained_one_by_one_is_an_error_before_the_first_round(monkeypatch):
    monkeypatch.setattr("hf_rec.training.trainer.LARGE_CATALOGUE", 10)
    sampled = {"loss_type": "sampled_softmax", "num_negatives": 4}
    model = small_model(len(TOKENIZER), is_decoder=True, **sampled)
    with pytest.raises(ValueError, match="sampled_softmax.*softmax"):
        simulate(model, TOKENIZER, parts_of(HISTORIES), FederatedSettings(clients_per_round=1, **ONE_STEP))
    with pytest.raises(ValueError, match="sampled_softmax.*softmax"):
        model_of_catalogue([str(item) for item in range(20)], config=sampled)


@pytest.mark.parametrize("drop_rate", [-0.1, 1, 5])
def test_a_share_of_dropped_messages_out_of_range_is_an_error(drop_rate):
    model = small_model(len(TOKENIZER), is_decoder=True)
    with pytest.raises(ValueError, match=f"drop_rate must be at least 0 and below 1, got {drop_rate}"):
        simulate(model, TOKENIZER, parts_of(HISTORIES), FederatedSettings(clients_per_round=1), drop_rate=drop_rate)
