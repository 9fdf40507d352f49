"""New models under a running service: loaded and swapped, or refused while the old one serves on."""

import gc
import json
import shutil
import threading
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from services import FEATURES, ITEMS, save_shop
from transformers import pipeline

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from hf_rec import Feature
from hf_rec.serving import app as service_app
from hf_rec.serving.app import create_app
from hf_rec.serving.models import ModelRefused, ModelSource
from hf_rec.serving.settings import ServiceSettings

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def shop(tmp_path):
    """Folder of a model that the tests replace."""
    return save_shop(tmp_path / "shop", features=FEATURES)


def replace(shop, **options) -> None:
    """Put another model into the folder."""
    other = save_shop(shop.parent / "other", **({"features": FEATURES} | options))
    shutil.rmtree(shop)
    other.rename(shop)


def serve(shop, **options) -> TestClient:
    settings = ServiceSettings(sessions=str(shop.parent / "sessions.sqlite"), **options)
    return TestClient(create_app(ModelSource(shop), settings, token="secret"), headers=TOKEN)


def damage(shop, file: str, content: bytes) -> None:
    (shop / file).write_bytes(content)


def write_weights(shop, change) -> None:
    file = shop / "model.safetensors"
    weights = {name: change(tensor) for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


BROKEN = {
    "truncated weights": (lambda shop: damage(shop, "model.safetensors", b"\0" * 100), "cannot be served"),
    "no configuration": (lambda shop: (shop / "config.json").unlink(), "cannot be served"),
    "a configuration that is no JSON": (lambda shop: damage(shop, "config.json", b"{"), "cannot be served"),
    "no weights": (lambda shop: (shop / "model.safetensors").unlink(), "cannot be served"),
    "weights that are not finite": (lambda shop: write_weights(shop, lambda w: w * torch.nan), "not finite"),
    "a tokenizer of another shop": (
        lambda shop: shutil.copy(save_shop(shop.parent / "few", items=ITEMS[:5]) / "tokenizer.json", shop),
        "do not belong together",
    ),
    "no folder": (lambda shop: shutil.rmtree(shop), "cannot be served"),
    "another catalogue": (lambda shop: replace(shop, items=["tea", "cup"]), "knows no item of the served one"),
    "a model that does not read a column": (lambda shop: replace(shop, features=FEATURES[1:]), r"['rating']"),
    "a model that reads a column in another way": (
        lambda shop: replace(shop, features=[Feature("rating", "number", edges=[1.5]), *FEATURES[1:]]),
        r"does not read ['rating'] as the served one does",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_or_incompatible_model_is_refused_and_the_old_one_serves_on(shop, fault):
    break_it, said = BROKEN[fault]
    expected = [entry["item_id"] for entry in pipeline("recommendation", model=shop)(ITEMS[:2])]
    with serve(shop) as client:
        before = client.get("/ready").json()
        break_it(shop)
        response = client.post("/admin/reload")
        assert response.status_code == 409 and said in response.json()["detail"], response.json()
        assert "\n" not in response.json()["detail"]
        assert client.get("/ready").json() == before
        items = client.post("/recommend", json={"history": ITEMS[:2]}).json()["items"]
        assert [entry["item_id"] for entry in items] == expected
        assert 'hf_rec_reloads_total{result="refused"} 1.0' in client.get("/metrics").text


def test_a_model_that_cannot_be_opened_at_the_start_is_an_error_that_names_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelRefused, match=f"{tmp_path} cannot be served"):
        ModelSource(tmp_path)


def wait_for(version: str, answers: list) -> None:
    """Until one of the answers, which come in, is of a model, or for ten seconds."""
    for _ in range(200):
        if any(response.json()["model_version"] == version for _, response in answers[-20:]):
            return
        threading.Event().wait(0.05)


def test_a_new_model_is_swapped_in_while_requests_are_answered(shop):
    histories = [ITEMS[:length] for length in range(1, 8)]
    expected, answers, done = {}, [], threading.Event()

    def lists() -> list[list[str]]:
        return [[entry["item_id"] for entry in ranked] for ranked in pipeline("recommendation", model=shop)(histories)]

    with serve(shop) as client:

        def ask(number):
            while not done.is_set():
                response = client.post("/recommend", json={"history": histories[number]})
                answers.append((number, response))

        version = client.get("/ready").json()["model_version"]
        expected[version] = lists()
        threads = [threading.Thread(target=ask, args=[number]) for number in range(len(histories))]
        for thread in threads:
            thread.start()
        wait_for(version, answers)
        for seed in (1, 2):
            replace(shop, seed=seed)
            version = client.post("/admin/reload").json()["model_version"]
            expected[version] = lists()
            wait_for(version, answers)
        done.set()
        for thread in threads:
            thread.join()
    assert len(expected) == 3 and len({json.dumps(ranked) for ranked in expected.values()}) == 3
    assert {response.status_code for _, response in answers} == {200}
    assert {response.json()["model_version"] for _, response in answers} == expected.keys()
    for number, response in answers:
        found = [entry["item_id"] for entry in response.json()["items"]]
        assert found == expected[response.json()["model_version"]][number]


def test_events_of_a_session_are_read_by_the_new_model(shop):
    with serve(shop) as client:
        client.post("/sessions/ann/events", json={"events": [{"item_id": "tea", "rating": "3", "timestamp": 5}]})
        replace(shop, seed=3, items=[*ITEMS, "tea"])
        assert client.post("/admin/reload").status_code == 200
        found = client.post("/recommend", json={"session_id": "ann", "request": {"time": 9}}).json()["items"]
    row = {"item_ids": ["tea"], "rating": ["3"], "timestamps": [5], "request": {"time": 9}}
    assert [entry["item_id"] for entry in found] == [
        entry["item_id"] for entry in pipeline("recommendation", model=shop)(row)
    ]


def test_a_watched_folder_is_loaded_again_when_it_changes_and_a_broken_one_is_not(shop, monkeypatch):
    monkeypatch.setattr(service_app, "WATCH_INTERVAL", 0.05)
    with serve(shop, watch=True) as client:
        versions = [client.get("/ready").json()["model_version"]]
        for change in (
            lambda: replace(shop, seed=1),
            lambda: damage(shop, "config.json", b"{"),
            lambda: replace(shop),
        ):
            change()
            for _ in range(200):
                version = client.get("/ready").json()["model_version"]
                metrics = client.get("/metrics").text
                if version != versions[-1] or 'result="refused"' in metrics and len(versions) == 2:
                    break
                threading.Event().wait(0.05)
            versions.append(version)
    assert versions[0] != versions[1] == versions[2] != versions[3]


def test_what_is_there_is_left_out_of_collections_until_it_is_replaced(shop):
    frozen = gc.get_freeze_count()
    with serve(shop) as client:
        assert gc.get_freeze_count() > frozen + 10_000
        served = weakref.ref(client.app.state.service.source.current.recommend.model)
        replace(shop, seed=1)
        assert client.post("/admin/reload").status_code == 200
        assert served() is None
        assert gc.get_freeze_count() > frozen + 10_000
    assert gc.get_freeze_count() == 0


def test_only_a_folder_can_be_watched(shop, monkeypatch):
    source = ModelSource(shop)
    monkeypatch.setattr(source, "name", "someone/shop")
    with pytest.raises(ValueError, match="watch needs a folder, got someone/shop"):
        create_app(source, ServiceSettings(watch=True))
