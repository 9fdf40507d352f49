"""The HTTP service in this process, with real models and stores: its lists are those of the pipeline."""

import json
import logging
import threading
import time
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services import FEATURES, ITEMS, save_shop
from transformers import pipeline

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from hf_rec.serving import OnnxRecommendationPipeline, export_recommender, similar_items
from hf_rec.serving.app import OPEN_PATHS, create_app
from hf_rec.serving.models import ModelSource
from hf_rec.serving.observing import JsonFormatter
from hf_rec.serving.settings import ServiceSettings

JSON = {"Content-Type": "application/json"}
DENY = {"rule": "deny", "where": {"items": ["item-3"]}}
histories = st.lists(st.sampled_from([*ITEMS, "unheard of"]), max_size=12)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Folder of a model without features."""
    return save_shop(tmp_path_factory.mktemp("plain") / "shop")


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """Folder of a model with features."""
    return save_shop(tmp_path_factory.mktemp("rich") / "shop", features=FEATURES)


@pytest.fixture(scope="module")
def exported(plain):
    """Folder of the export of the plain model."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    export_recommender(plain, plain.parent / "exported")
    return plain.parent / "exported"


@pytest.fixture
def serve(tmp_path):
    """A function that serves a folder in a block, with settings."""

    @contextmanager
    def serving(folder, token=None, **options):
        settings = ServiceSettings(sessions=str(tmp_path / "sessions.sqlite"), **options)
        app = create_app(ModelSource(folder, settings.max_top_k), settings, token)
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client

    return serving


def assert_items(response, expected):
    """The answer has the entries of a list of the pipeline, its numbers up to the rounding of a batch."""
    assert response.status_code == 200, response.text
    found = response.json()["items"]
    assert [entry["item_id"] for entry in found] == [entry["item_id"] for entry in expected]
    assert [entry.keys() for entry in found] == [entry.keys() for entry in expected]
    assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)


def problem(response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"detail"}
    return response.status_code, response.json()["detail"]


@given(
    histories,
    st.fixed_dictionaries(
        {},
        optional={
            "top_k": st.integers(1, 25),
            "exclude_seen": st.booleans(),
            "candidates": st.lists(st.sampled_from(ITEMS), min_size=1),
            "blocked": st.lists(st.sampled_from(ITEMS)),
            "explain": st.booleans(),
        },
    ),
)
@settings(max_examples=25)
def check_lists(client, recommend, history, options):
    given = {"history": history} | options
    row = {"item_ids": history, "candidates": options.pop("candidates", None)}
    assert_items(client.post("/recommend", json=given), recommend(row, **options))


def test_lists_are_those_of_the_pipeline(serve, plain):
    with serve(plain) as client:
        check_lists(client, pipeline("recommendation", model=plain))


def test_lists_of_an_export_are_those_of_its_pipeline(serve, plain, exported):
    expected = similar_items(pipeline("recommendation", model=plain), "item-3", 4)
    with serve(exported) as client:
        check_lists(client, OnnxRecommendationPipeline.from_pretrained(exported))
        similar = client.post("/similar", json={"item_id": "item-3", "top_k": 4}).json()["items"]
    assert [entry["item_id"] for entry in similar] == [entry["item_id"] for entry in expected]
    assert [entry["score"] for entry in similar] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)


def test_requests_that_come_together_have_the_lists_that_they_have_alone(serve, plain):
    recommend = pipeline("recommendation", model=plain)
    bodies = [{"history": ITEMS[: number % 7], "top_k": 1 + number % 3} for number in range(60)]
    bodies[20] = {"history": ITEMS[:2], "candidates": ["unheard of"]}
    answers = [None] * len(bodies)
    with serve(plain) as client:

        def ask(number):
            answers[number] = client.post("/recommend", json=bodies[number])

        threads = [threading.Thread(target=ask, args=[number]) for number in range(len(bodies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sizes = metrics(client)["hf_rec_batch_size_count", ()]
    assert sizes < len(bodies)
    assert problem(answers[20]) == (400, "none of the 1 candidates is in the catalogue of the model")
    for number in {*range(60)} - {20}:
        expected = recommend([bodies[number]["history"]], top_k=bodies[number]["top_k"])[0]
        assert_items(answers[number], expected)


def test_rules_and_explanations_of_them(serve, plain):
    recommend = pipeline("recommendation", model=plain)
    with serve(plain) as client:
        for options in ({"rules": [DENY]}, {"extra_rules": [DENY], "explain_rules": True}):
            response = client.post("/recommend", json={"history": ["item-1"], "top_k": 19} | options)
            assert_items(response, recommend(["item-1"], top_k=19, **options))
            assert "item-3" not in [entry["item_id"] for entry in response.json()["items"]]


def test_an_event_that_is_posted_changes_the_next_list(serve, plain):
    recommend = pipeline("recommendation", model=plain)
    with serve(plain) as client:
        assert_items(client.post("/recommend", json={"session_id": "ann"}), recommend([[]])[0])
        history = []
        for item in ("item-4", "unheard of", "item-9", "item-4"):
            history.append(item)
            posted = client.post("/sessions/ann/events", json={"events": [{"item_id": item}]})
            assert posted.json() == {"stored": 1}
            assert_items(client.post("/recommend", json={"session_id": "ann"}), recommend(history))
        kept = client.get("/sessions/ann").json()
        assert kept["session_id"] == "ann" and [event["item_id"] for event in kept["events"]] == history
        assert client.delete("/sessions/ann").status_code == 204
        assert problem(client.get("/sessions/ann")) == (404, "no events in this session")
        assert_items(client.post("/recommend", json={"session_id": "ann"}), recommend([[]])[0])


def test_the_columns_of_events_and_requests_are_read_as_in_the_pipeline(serve, rich):
    recommend = pipeline("recommendation", model=rich)
    events = [
        {"item_id": "item-1", "timestamp": 100, "rating": "3"},
        {"item_id": "item-2", "timestamp": 900, "price": 1.5, "country": "fr"},
        {"item_id": "item-3", "timestamp": 500, "rating": 1},
    ]
    row = {
        "item_ids": ["item-1", "item-3", "item-2"],
        "timestamps": [100, 500, 900],
        "rating": ["3", 1, None],
        "price": [None, None, 1.5],
        "country": [None, None, "fr"],
    }
    with serve(rich) as client:
        assert client.post("/sessions/bob/events", json={"events": events}).status_code == 200
        for time_given, time_meant in ((5000, 5000), (3, 900)):  # not before the last event
            request = {"country": "de", "time": time_given}
            response = client.post("/recommend", json={"session_id": "bob", "request": request})
            assert_items(response, recommend(row | {"request": request | {"time": time_meant}}))
        response = client.post("/recommend", json={"history": row, "request": {"country": "de", "time": 5000}})
        assert_items(response, recommend(row | {"request": {"country": "de", "time": 5000}}))
        response = client.post("/recommend", json={"session_id": "bob"})
        assert_items(response, recommend(row | {"request": {"time": time.time()}}))  # now


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"colour": "red"}, "the model does not read ['colour'] of an event; it reads ['country', 'price', 'rating']"),
        ({"price": "cheap"}, "feature 'price' reads numbers"),
        ({"price": "9" * 1001}, "at most 1000 characters"),
        ({"price": "\ud800"}, "unicode string"),
        ({"item_id": "\ud800"}, "unicode string"),
        ({"rating": 1.5}, "a category is a string, a whole number or a truth value, got 1.5"),
    ],
)
def test_events_with_columns_that_cannot_be_read_are_refused_and_not_stored(serve, rich, event, said):
    with serve(rich) as client:
        for item in ("item-1", "unheard of"):
            events = {"events": [{"item_id": "item-2"}, {"item_id": item} | event]}
            response = client.post("/sessions/cid/events", content=json.dumps(events), headers=JSON)
            status, detail = problem(response)
            assert status in (400, 422) and said in detail
        assert client.get("/sessions/cid").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("{", 422, "JSON decode error"),
        ("[]", 422, "body: Input should be a valid dictionary"),
        ('"\\ud800"', 422, "body"),
        ('{"history": ["item-1"], "\\ud800": 1}', 422, "unicode string"),
        ('{"history": ["item-1"], "request": {"time": NaN}}', 422, "body.request.time"),
        ('{"history": ["item-1"], "request": {"time": 1e999}}', 422, "body.request.time"),
        ('{"history": ["item-1"], "request": {"time": 1' + 400 * "0" + "}}", 422, "body.request.time"),
        ('{"history": ["item-1"], "top_k": 1' + 5000 * "0" + "}", 400, "parsing the body"),
        ('{"history": ' + 100_000 * "[" + 100_000 * "]" + "}", 400, "parsing the body"),
        ("{}", 422, "give one of history and session_id; a new user has the history []"),
        ('{"history": [], "session_id": "ann"}', 422, "give one of history and session_id"),
        ('{"history": [7]}', 422, "body.history.list"),
        ('{"history": "item-1"}', 422, "body.history"),
        ('{"history": ["item-1"], "top_k": "3"}', 422, "body.top_k: Input should be a valid integer"),
        ('{"history": ["item-1"], "top_k": 0}', 422, "body.top_k: Input should be greater than or equal to 1"),
        ('{"history": ["item-1"], "colour": "red"}', 422, "body.colour: Extra inputs are not permitted"),
        ('{"history": {"item_ids": ["item-1"], "request": {}}}', 422, "body.history"),
        ('{"history": {"item_ids": ["item-1"], "request": 1}}', 422, "['request'] are no columns of a history"),
        ('{"session_id": "../etc"}', 422, "body.session_id"),
        ('{"history": ["item-1"], "top_k": 101}', 400, "top_k is at most 100, got 101"),
        ('{"history": ["item-1"], "candidates": []}', 400, "none of the 0 candidates"),
        ('{"history": ["item-1"], "request": {"country": "fr"}}', 400, "the model does not read ['country']"),
        ('{"history": {"item_ids": ["item-1"], "rating": ["3"]}}', 400, "the model does not read ['rating']"),
        ('{"history": ["item-1"], "rules": [{"rule": "forbid"}]}', 400, "'rule' must be one of"),
    ],
)
def test_bad_bodies_are_answered_with_what_is_wrong(serve, plain, body, status, said):
    with serve(plain) as client:
        response = client.post("/recommend", content=body.encode(), headers=JSON)
    found, detail = problem(response)
    assert found == status and said in detail and len(detail) < 500


def test_timestamps_that_are_not_in_order_are_refused(serve, rich):
    history = {"item_ids": ["item-1", "item-2"], "timestamps": [9, 3]}
    with serve(rich) as client:
        status, detail = problem(client.post("/recommend", json={"history": history}))
    assert status == 400 and "timestamps must be in order" in detail


def test_limits_are_named(serve, plain):
    limits = {"max_history": 3, "max_candidates": 2, "max_top_k": 5, "max_body": 2000}
    events = {"events": [{"item_id": "item-1"}] * 4}
    with serve(plain, **limits) as client:
        for body, said in (
            ({"history": ITEMS[:4]}, "history is at most 3, got 4"),
            ({"history": {"item_ids": ITEMS[:4]}}, "history is at most 3, got 4"),
            ({"history": [], "candidates": ITEMS[:3]}, "candidates is at most 2, got 3"),
            ({"history": [], "blocked": ITEMS[:3]}, "blocked is at most 2, got 3"),
            ({"history": [], "top_k": 6}, "top_k is at most 5, got 6"),
        ):
            assert problem(client.post("/recommend", json=body)) == (400, said)
        assert problem(client.post("/sessions/a/events", json=events)) == (400, "events is at most 3, got 4")
        assert problem(client.post("/similar", json={"item_id": "item-1", "top_k": 6}))[0] == 400
        too_long = (413, "a body has at most 2,000 bytes")
        assert problem(client.post("/recommend", json={"history": ["x" * 2000]})) == too_long
        parts = (b'{"history": ["', *[b"x" * 100] * 30, b'"]}')
        chunked = client.post("/recommend", content=iter(parts), headers=JSON)
        assert problem(chunked) == too_long
        assert client.post("/recommend", json={"history": ITEMS[:3], "top_k": 5}).status_code == 200


def test_similar_items(serve, plain):
    recommend = pipeline("recommendation", model=plain)
    with serve(plain) as client:
        response = client.post("/similar", json={"item_id": "item-3", "top_k": 4})
        assert response.json()["items"] == similar_items(recommend, "item-3", 4)
        status, detail = problem(client.post("/similar", json={"item_id": "unheard of"}))
    assert status == 400 and "unheard of" in detail


def test_the_token_is_needed_everywhere_but_for_probes_and_the_documentation(serve, plain):
    with serve(plain, token="secret") as client:
        schema = client.get("/openapi.json").json()
        assert schema["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
        assert len(schema["paths"]) == 8
        for path, operations in schema["paths"].items():
            for method in operations:
                for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
                    response = client.request(method, path.format(session_id="a"), headers=header)
                    if path in OPEN_PATHS:
                        assert response.status_code == 200
                    else:
                        assert problem(response) == (401, "a bearer token is needed")
                        assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/docs").status_code == 200
        right = {"Authorization": "Bearer secret"}
        assert client.post("/recommend", json={"history": []}, headers=right).status_code == 200
        assert client.post("/admin/reload", headers=right).json()["status"] == "reloaded"


def test_without_a_token_nobody_reloads(serve, plain):
    with serve(plain) as client:
        assert problem(client.post("/admin/reload")) == (403, "the server has no token; start it with HF_REC_TOKEN")


@contextmanager
def halted(client):
    """The thread of the model waits in this block."""
    service, go_on, inside = service_of(client), threading.Event(), threading.Event()
    recommend = service.source.current.recommend

    class Waiting(type(recommend)):
        def __call__(self, *args, **kwargs):
            inside.set()
            assert go_on.wait(20)
            return super().__call__(*args, **kwargs)

    kind, recommend.__class__ = type(recommend), Waiting
    asking = threading.Thread(target=client.post, args=["/recommend"], kwargs={"json": {"history": []}})
    asking.start()
    assert inside.wait(20)
    try:
        yield service
    finally:
        go_on.set()
        asking.join()
        recommend.__class__ = kind


def service_of(client):
    return client.app.state.service


def test_a_full_queue_answers_503_and_health_goes_on(serve, plain):
    with serve(plain, max_waiting=1) as client:
        with halted(client) as service:
            waiting = threading.Thread(target=client.post, args=["/recommend"], kwargs={"json": {"history": []}})
            waiting.start()
            while not service.lists.waiting:
                time.sleep(0.01)
            refused = client.post("/recommend", json={"history": []})
            assert problem(refused) == (503, "1 requests are waiting") and refused.headers["retry-after"] == "1"
            assert client.get("/health").json() == {"status": "alive", "model_version": None}
            assert client.get("/ready").status_code == 200
        waiting.join()
        assert client.post("/recommend", json={"history": []}).status_code == 200


def test_a_request_that_takes_too_long_answers_504(serve, plain):
    with serve(plain, timeout=0.2) as client:
        with halted(client):
            assert problem(client.post("/recommend", json={"history": []})) == (504, "the request took too long")
        assert client.post("/recommend", json={"history": []}).status_code == 200


def logged(caplog) -> list[str]:
    return [JsonFormatter().format(record) for record in caplog.records if record.name == "hf_rec.serving"]


def test_an_error_that_nobody_expected_says_nothing_of_itself_and_its_log_quotes_nothing(serve, plain, caplog):
    with serve(plain) as client, caplog.at_level(logging.INFO, "hf_rec.serving"):
        recommend = service_of(client).source.current.recommend
        recommend.item_of_id = {}  # a KeyError in the middle of the pipeline
        response = client.post("/recommend", json={"history": ["item-7"]})
    assert problem(response) == (500, "an error of the server; its log says where")
    lines = [json.loads(line) for line in logged(caplog)]
    assert [line["message"] for line in lines] == ["a request failed", "request"]
    assert lines[0]["error"] == "KeyError" and any("pipeline_bert4rec.py" in place for place in lines[0]["places"])


def test_logs_have_the_route_the_status_and_the_time_and_no_histories(serve, rich, caplog):
    with serve(rich) as client, caplog.at_level(logging.INFO, "hf_rec.serving"):
        client.post("/sessions/session-of-ann/events", json={"events": [{"item_id": "item-7", "rating": "3"}]})
        client.post("/recommend", json={"session_id": "session-of-ann", "request": {"country": "fr"}})
        client.post("/recommend", json={"history": ["item-7"], "request": {"colour": "mauve"}})
        client.post("/sessions/session-of-ann/events", json={"events": [{"item_id": "item-7", "rating": "item-7"}]})
        client.get("/sessions/session-of-ann")
        client.get("/wp-login.php")
    lines = logged(caplog)
    assert [(json.loads(line)["route"], json.loads(line)["status"]) for line in lines] == [
        ("/sessions/{session_id}/events", 200),
        ("/recommend", 200),
        ("/recommend", 400),
        ("/sessions/{session_id}/events", 200),
        ("/sessions/{session_id}", 200),
        ("unknown", 404),
    ]
    assert all(json.loads(line)["ms"] > 0 for line in lines)
    assert not [line for line in lines for word in ("item-7", "of-ann", "mauve", "login") if word in line]


def metrics(client) -> dict[tuple, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_count_requests_and_batches(serve, plain):
    with serve(plain) as client:
        version = client.get("/ready").json()["model_version"]
        for body in ({"history": []}, {"history": ["item-1"]}, {"history": 5}):
            client.post("/recommend", json=body)
        found = metrics(client)
    route = ("route", "/recommend")
    assert found["hf_rec_requests_total", (route, ("status", "200"))] == 2
    assert found["hf_rec_requests_total", (route, ("status", "422"))] == 1
    assert found["hf_rec_request_seconds_count", (route,)] == 3
    assert found["hf_rec_batch_size_sum", ()] == 2
    assert found["hf_rec_model_info", (("version", version),)] == 1
    assert found["hf_rec_waiting", ()] == 0
    assert found["process_resident_memory_bytes", ()] > 10**7


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_batch must be above 0, got 0"):
        ServiceSettings(max_batch=0)
    with pytest.raises(ValueError, match="timeout must be above 0, got nan"):
        ServiceSettings(timeout=float("nan"))


def test_sessions_in_a_file_that_cannot_be_used_are_refused_before_the_start(plain, tmp_path):
    (tmp_path / "notes.txt").write_text("no database, but longer than the header of one " * 9)
    with pytest.raises(ValueError, match="notes.txt cannot be used for sessions"):
        create_app(ModelSource(plain), ServiceSettings(sessions=str(tmp_path / "notes.txt")))
