"""Faults of real processes: servers and Redis that are killed under load, and files that two servers share."""

import json
import resource
import shutil
import signal
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection

import httpx2
import pytest
from services import ITEMS, RunningRedis, RunningServer, running, save_shop

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return save_shop(tmp_path_factory.mktemp("faults") / "shop")


@pytest.fixture(params=["sqlite", "redis"])
def place(request, tmp_path):
    """Where sessions are kept."""
    if request.param == "sqlite":
        yield str(tmp_path / "sessions.sqlite")
        return
    server = RunningRedis(tmp_path)
    yield server.url
    server.kill()


class Posting:
    """Threads that post events, each to a session of its own, and remember which ones were acknowledged."""

    def __init__(self, server: RunningServer, threads: int = 4):
        self.server, self.ended = server, threading.Event()
        self.stored = {f"session-{number}": [] for number in range(threads)}
        self.refused: list[int] = []
        self.threads = [threading.Thread(target=self.post, args=[name]) for name in self.stored]
        for thread in self.threads:
            thread.start()

    def post(self, name: str) -> None:
        with httpx2.Client(base_url=self.server.client.base_url, timeout=30) as client:
            for number in range(10**6):
                if self.ended.is_set():
                    return
                item = f"{name}-{number}"
                try:
                    answer = client.post(f"/sessions/{name}/events", json={"events": [{"item_id": item}]})
                except httpx2.TransportError:
                    time.sleep(0.01)
                    continue
                if answer.status_code == 200:
                    self.stored[name].append(item)
                else:
                    assert answer.headers["retry-after"] == "1"
                    self.refused.append(answer.status_code)
                    time.sleep(0.01)

    def more(self, count: int) -> None:
        """Return when each session has that many acknowledged events more."""
        goal = {name: len(items) + count for name, items in self.stored.items()}
        end = time.monotonic() + 60
        while any(len(self.stored[name]) < most for name, most in goal.items()):
            assert time.monotonic() < end, {name: len(items) for name, items in self.stored.items()}
            time.sleep(0.01)

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def check(self, server: RunningServer) -> None:
        """All that was acknowledged is there, in order; what was not may be there."""
        for name, acknowledged in self.stored.items():
            kept = [event["item_id"] for event in server.client.get(f"/sessions/{name}").json()["events"]]
            assert [item for item in kept if item in {*acknowledged}] == acknowledged


def test_no_acknowledged_event_is_lost_when_the_server_is_killed_under_load(shop, place):
    options = ("--sessions", place, "--session_events", 100_000)
    with running(shop, *options) as server:
        posting = Posting(server)
        posting.more(30)
        for _ in range(2):
            server.kill()
            again = RunningServer(shop, *options, port=server.port).wait()
            server.output.close()
            server.process, server.output = again.process, again.output
            posting.more(30)
        posting.end()
        posting.check(server)
        assert sum(map(len, posting.stored.values())) >= 4 * 90 and not posting.refused


def test_while_redis_is_down_the_answer_is_503_and_nothing_that_was_acknowledged_is_lost(shop, tmp_path):
    redis = RunningRedis(tmp_path)
    try:
        with running(shop, "--sessions", redis.url, "--session_events", 100_000) as server:
            posting = Posting(server)
            posting.more(30)
            redis.kill()
            while not posting.refused:
                time.sleep(0.01)
            refused = server.recommend(session_id="session-0")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "Redis does not answer" in refused.json()["detail"]
            assert server.client.get("/ready").status_code == 503
            assert server.client.get("/health").status_code == 200
            assert server.recommend(history=ITEMS[:2]).status_code == 200
            redis.start()
            posting.more(30)
            posting.end()
            posting.check(server)
            assert server.client.get("/ready").status_code == 200
            assert {*posting.refused} == {503}
    finally:
        redis.kill()


def test_two_servers_on_one_store_see_each_others_events(shop, place):
    options = ("--sessions", place, "--session_events", 100_000)
    with running(shop, *options) as one, running(shop, *options) as two:
        postings = Posting(one), Posting(two)
        for posting in postings:
            posting.more(50)
        for posting in postings:
            posting.end()
            assert not posting.refused
        for name in postings[0].stored:
            kept = [server.client.get(f"/sessions/{name}").json() for server in (one, two)]
            assert kept[0] == kept[1]
            for posting in postings:
                mine, items = posting.stored[name], [event["item_id"] for event in kept[0]["events"]]
                # both servers got events of the same names
                assert all(items.count(item) >= 1 for item in mine)
        assert one.recommend(session_id="session-0").json() == two.recommend(session_id="session-0").json()


def test_a_full_disk_is_answered_with_503_and_passes(shop, tmp_path):
    """A limit of the size of files stands for a full disk."""
    place = tmp_path / "sessions.sqlite"

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))

    # the private copy of the model is below the limit
    with running(shop, "--sessions", place, "--session_events", 100_000, preexec_fn=limit) as server:
        stored = []
        for number in range(2000):
            item = f"{number}-" + "x" * 900
            answer = server.post_events("one", item)
            if answer.status_code != 200:
                break
            stored.append(item)
        assert answer.status_code == 503 and "cannot be written" in answer.json()["detail"]
        assert len(stored) > 20
        kept = [event["item_id"] for event in server.client.get("/sessions/one").json()["events"]]
        assert kept == stored
        assert server.recommend(history=ITEMS[:2]).status_code == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert server.post_events("one", "after").status_code == 200
        server.kill()
    with running(shop, "--sessions", place, "--session_events", 100_000) as server:
        kept = [event["item_id"] for event in server.client.get("/sessions/one").json()["events"]]
        assert kept == [*stored, "after"]


def test_requests_that_are_under_way_at_the_end_are_answered(shop, tmp_path):
    """A request that the server has not read when it closes a connection is lost; what it has read, it answers."""
    answers = []
    with running(shop, "--sessions", tmp_path / "sessions.sqlite") as server:

        def ask():
            with suppress(httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError):
                while True:
                    answers.append(server.client.post("/recommend", json={"history": ITEMS[:7], "explain": True}))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        printed = server.stop()
        for thread in threads:
            thread.join()
        assert server.process.returncode in (0, -signal.SIGTERM) and "Traceback" not in printed
    logged = [line for line in map(json.loads, printed.splitlines()) if line.get("route") == "/recommend"]
    assert {line["status"] for line in logged} == {answer.status_code for answer in answers} == {200}
    assert len(logged) == len(answers)


def test_a_corrupt_folder_ends_the_start_with_one_line_and_a_reload_with_a_refusal(shop, tmp_path):
    folder = shutil.copytree(shop, tmp_path / "shop")
    options = ("--sessions", tmp_path / "sessions.sqlite")
    with running(folder, *options, token="secret") as server:
        (folder / "model.safetensors").write_bytes(b"damaged")  # in place, under the running server
        refused = server.client.post("/admin/reload")
        assert refused.status_code == 409 and "cannot be served" in refused.json()["detail"]
        assert server.recommend(history=ITEMS[:2]).status_code == 200
    broken = RunningServer(folder, *options)
    assert broken.process.wait(timeout=90) == 1
    printed = broken.printed()
    assert printed.splitlines()[-1].startswith(f"hf-rec serve: {folder} cannot be served")
    assert "Traceback" not in printed


def test_a_session_of_100_000_posted_events_is_as_fast_as_a_short_one(shop, place):
    with running(shop, "--sessions", place) as server:

        def milliseconds() -> float:
            seconds = []
            for _ in range(40):
                start = time.perf_counter()
                assert server.post_events("long", "item-1").status_code == 200
                assert server.recommend(session_id="long").status_code == 200
                seconds.append(time.perf_counter() - start)
            return sorted(seconds)[20]

        for _ in range(5):
            server.post_events("long", *ITEMS * 5)
        short = milliseconds()
        for _ in range(20):
            assert server.post_events("long", *ITEMS * 250).status_code == 200
        assert milliseconds() < 5 * short
        assert len(server.client.get("/sessions/long").json()["events"]) == 500


def test_a_connection_that_was_idle_for_longer_than_uvicorn_keeps_it_is_still_open(shop, tmp_path):
    with running(shop, "--sessions", tmp_path / "sessions.sqlite") as server:
        connection = HTTPConnection("127.0.0.1", server.port)
        connection.connect()
        local = connection.sock.getsockname()
        for pause in (0, 7):
            time.sleep(pause)
            connection.request("GET", "/health")
            assert connection.getresponse().read()
        assert connection.sock.getsockname() == local
        connection.close()
