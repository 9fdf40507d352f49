"""Both stores of sessions, against a list that is kept in order."""

import asyncio
import sqlite3
import time
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services import RunningRedis

from hf_rec.serving import sessions
from hf_rec.serving.sessions import Event, RedisSessions, SessionsUnavailable, SqliteSessions, open_sessions

DAY = 86_400.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    pytest.importorskip("redis")
    server = RunningRedis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def place(request, tmp_path) -> str:
    """Of an empty store."""
    if request.param == "sqlite":
        return str(tmp_path / "sessions.sqlite")
    import redis as client

    server = request.getfixturevalue("redis")
    client.Redis.from_url(server.url).flushall()
    return server.url


def run_with(place: str, use, max_events: int = 500, ttl: float = DAY):
    """What a function of an open store returns."""

    async def run():
        store = open_sessions(place, max_events, ttl)
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())


class SlowSessions:
    """What the module promises, as lists that are sorted after each event."""

    def __init__(self, max_events: int):
        self.max_events, self.sessions, self.arrived = max_events, defaultdict(list), 0

    def append(self, session_id: str, events, now: float) -> None:
        kept = self.sessions[session_id]
        last = max((event.timestamp for _, event in kept), default=now)
        for event in events:
            if event.timestamp is None:
                event = event._replace(timestamp=max(now, last))
            last = max(last, event.timestamp)
            kept.append((self.arrived, event))
            self.arrived += 1
        kept.sort(key=lambda pair: (pair[1].timestamp, pair[0]))
        del kept[: -self.max_events]

    def read(self, session_id: str) -> list[Event]:
        return [event for _, event in self.sessions[session_id]]


clocks = st.integers(0, 5).map(float)  # goes back as often as forth
values = st.none() | st.text() | st.floats(0, 9)
columns = st.none() | st.dictionaries(st.sampled_from("ab"), values, min_size=1)
events = st.builds(Event, st.text(max_size=3), st.none() | clocks, columns)
posts = st.tuples(st.sampled_from(["one", "two"]), st.lists(events, min_size=1, max_size=4), clocks)


def test_sessions_are_those_of_sorted_lists(place):
    number = iter(range(10**6))

    @given(st.lists(posts, max_size=8), st.integers(1, 6))
    @settings(max_examples=25)
    def check(posts, max_events):
        prefix, slow = f"{next(number)}-", SlowSessions(max_events)

        async def use(store):
            for name, posted, now in posts:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sessions.time, "time", lambda now=now: now)
                    await store.append(prefix + name, posted)
                    slow.append(name, posted, now)
                    assert await store.read(prefix + name) == slow.read(name)

        run_with(place, use, max_events)

    check()


def test_events_are_there_after_the_store_is_opened_again_until_they_are_deleted(place):
    stored = [Event("a", 1.0), Event("b", 2.0, {"rating": "3", "price": 1.5})]
    run_with(place, lambda store: store.append("one", stored))
    assert run_with(place, lambda store: store.read("one")) == stored
    run_with(place, lambda store: store.append("two", stored))
    run_with(place, lambda store: store.delete("one"))
    assert run_with(place, lambda store: store.read("one")) == []
    assert len(run_with(place, lambda store: store.read("two"))) == 2


def test_a_session_ends_some_time_after_its_last_event(place):
    async def use(store):
        await store.append("one", [Event("a")])
        await asyncio.sleep(0.6)
        await store.append("one", [Event("b")])
        await asyncio.sleep(0.6)
        kept = [event.item_id for event in await store.read("one")]
        await asyncio.sleep(0.5)
        ended = await store.read("one")
        await store.append("one", [Event("c")])
        return kept, ended, [event.item_id for event in await store.read("one")]

    assert run_with(place, use, ttl=1.0) == (["a", "b"], [], ["c"])


def test_two_servers_share_a_store(place):
    async def use(first):
        second = open_sessions(place, 500, DAY)
        turns = [(first, second)[number % 2].append("one", [Event(str(number))]) for number in range(200)]
        await asyncio.gather(*turns)
        read = await first.read("one"), await second.read("one")
        await second.close()
        return read

    one, two = run_with(place, use)
    assert one == two and sorted(int(event.item_id) for event in one) == list(range(200))
    assert [event.timestamp for event in one] == sorted(event.timestamp for event in one)


@pytest.mark.slow
def test_a_session_of_100_000_events_keeps_the_latest_ones_and_stays_as_fast(place):
    async def use(store):
        seconds = []
        for start in range(0, 100_000, 1000):
            begun = time.perf_counter()
            await store.append("one", [Event(str(number)) for number in range(start, start + 1000)])
            seconds.append(time.perf_counter() - begun)
        return seconds, await store.read("one")

    seconds, kept = run_with(place, use)
    assert [event.item_id for event in kept] == [*map(str, range(99_500, 100_000))]
    assert sorted(seconds[-20:])[10] < 10 * sorted(seconds[:20])[10]


def test_a_file_that_is_no_store_is_an_error_that_names_it(tmp_path):
    (tmp_path / "notes.txt").write_text("no database, but longer than the header of one " * 9)
    for file in ("notes.txt", "no/such/folder.sqlite"):
        with pytest.raises(ValueError, match=f"{file} cannot be used for sessions"):
            SqliteSessions(tmp_path / file)


def test_nothing_of_a_deleted_session_is_left_in_the_file(tmp_path):
    file = tmp_path / "sessions.sqlite"

    async def use(store):
        await store.append("secret-session", [Event("secret-item", columns={"rating": "secret-rating"})])
        await store.append("other", [Event("other-item")])
        await store.delete("secret-session")
        return b"".join(part.read_bytes() for part in tmp_path.iterdir())

    left = run_with(str(file), use)
    assert b"secret" not in left and b"other-item" in left


def test_a_full_disk_is_an_error_that_stores_nothing_and_passes(tmp_path):
    async def use(store):
        await store.append("one", [Event("before")])
        (pages,) = store.writer.execute("PRAGMA page_count").fetchone()
        store.writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(SessionsUnavailable, match="cannot be written: database or disk is full"):
            await store.append("one", [Event("x" * 900) for _ in range(100)])
        full = [event.item_id for event in await store.read("one")]
        store.writer.execute("PRAGMA max_page_count = 1000000")
        await store.append("one", [Event("after")])
        return full, [event.item_id for event in await store.read("one")]

    assert run_with(str(tmp_path / "sessions.sqlite"), use) == (["before"], ["before", "after"])


def test_a_store_that_another_process_locks_is_unavailable_for_that_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "BUSY_TIMEOUT", 0.1)
    file = tmp_path / "sessions.sqlite"

    async def use(store):
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SessionsUnavailable, match="locked"):
            await store.append("one", [Event("a")])
        assert await store.read("one") == []  # readers do not wait
        other.execute("COMMIT")
        other.close()
        await store.append("one", [Event("b")])
        return [event.item_id for event in await store.read("one")]

    assert run_with(str(file), use) == ["b"]


def test_sessions_in_redis_are_unavailable_while_it_is_down_and_come_back(tmp_path):
    pytest.importorskip("redis")
    server = RunningRedis(tmp_path)

    async def use(store):
        await store.append("one", [Event("a")])
        server.kill()
        for call in (store.append("one", [Event("lost")]), store.read("one"), store.delete("one"), store.check()):
            with pytest.raises(SessionsUnavailable, match="Redis does not answer"):
                await call
        server.start()
        await store.check()
        await store.append("one", [Event("b")])
        return [event.item_id for event in await store.read("one")]

    try:
        assert run_with(server.url, use) == ["a", "b"]
    finally:
        server.kill()


def test_the_place_chooses_the_store(tmp_path):
    pytest.importorskip("redis")

    async def kinds():
        stores = [open_sessions(place, 5, DAY) for place in (str(tmp_path / "file"), "redis://nowhere", "unix://sock")]
        for store in stores:
            await store.close()
        return [type(store) for store in stores]

    assert asyncio.run(kinds()) == [SqliteSessions, RedisSessions, RedisSessions]
