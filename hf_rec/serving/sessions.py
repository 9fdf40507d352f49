"""Sessions: the latest events of each visitor, in a file of SQLite or in Redis.

An event has a time. Without one it gets that of the server, but never a time before the last event of its session, so
that a clock that is set back changes no order. Events with times of their own are put in their places; of equal times
the first to arrive comes first.
"""

import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .batching import Batcher

BUSY_TIMEOUT = 5  # seconds that a server waits for another one that writes to the same file
PURGE_INTERVAL = 60  # seconds between the removals of sessions that have ended
TIMEOUT, CONNECTIONS = 2, 32  # seconds to wait for Redis or for one of the connections to it


class SessionsUnavailable(Exception):
    """The store does not answer, or cannot write."""


class Event(NamedTuple):
    """An event of a session.

    Args:
        item_id: Of the item.
        timestamp: Seconds since 1970, or the unit of the training data; None for the time of the server.
        columns: Other columns of the event, if there are any.
    """

    item_id: str
    timestamp: float | None = None
    columns: dict[str, Any] | None = None


class Sessions(Protocol):
    """Keeps the latest events of each session.

    Each method raises [`SessionsUnavailable`] where the store does not answer.
    """

    async def append(self, session_id: str, events: Sequence[Event]) -> None:
        """Returns when the events are stored for good."""

    async def read(self, session_id: str) -> list[Event]:
        """The events in their order, the latest ones last; none for an unknown session."""

    async def delete(self, session_id: str) -> None:
        """Forget the events of a session."""

    async def check(self) -> None:
        """Raise if the store does not answer."""

    async def close(self) -> None: ...


def open_sessions(place: str, max_events: int, ttl: float) -> Sessions:
    """The store at a place: `redis://host:port/0` (also `rediss://`, `unix://`), or else a file of SQLite.

    It belongs to the event loop that it is opened in.

    Args:
        max_events: Events that a session keeps, the latest ones.
        ttl: Seconds after its last event when a session ends.
    """
    if is_redis(place):
        return RedisSessions(place, max_events, ttl)
    return SqliteSessions(place, max_events, ttl)


def check_place(place: str) -> None:
    """Raise a `ValueError` if sessions cannot be kept in a file; Redis may be down for a while."""
    if not is_redis(place):
        connect(place).close()


def is_redis(place: str) -> bool:
    return place.startswith(("redis://", "rediss://", "unix://"))


SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, arrived INTEGER NOT NULL, ends REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_end ON sessions (ends);
CREATE TABLE IF NOT EXISTS events (
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    timestamp REAL NOT NULL, arrival INTEGER NOT NULL, item_id TEXT NOT NULL, columns TEXT,
    PRIMARY KEY (session, timestamp, arrival)
) WITHOUT ROWID;
"""
READ = """
SELECT item_id, timestamp, columns FROM events JOIN sessions ON session = id
WHERE name = ? AND ends > ? ORDER BY timestamp, arrival
"""
RENEW = """
INSERT INTO sessions (name, ends, arrived) VALUES (?1, ?2, ?3)
ON CONFLICT (name) DO UPDATE SET ends = ?2, arrived = arrived + ?3 RETURNING id, arrived
"""
TRIM = """
DELETE FROM events WHERE session = ?1 AND (timestamp, arrival) IN (
    SELECT timestamp, arrival FROM events WHERE session = ?1 ORDER BY timestamp DESC, arrival DESC LIMIT -1 OFFSET ?2
)
"""


def connect(file: str | Path) -> sqlite3.Connection:
    """Open a file of sessions, or make it."""
    try:
        connection = sqlite3.connect(file, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(SCHEMA)
    except sqlite3.Error as error:
        raise ValueError(f"{file} cannot be used for sessions: {error}") from error
    return connection


class SqliteSessions:
    """[`Sessions`] in a file of SQLite, which several servers on one machine may share.

    Posts that arrive together are one transaction and one write to the disk. The write-ahead log is synchronous: what
    [`append`] returned for survives a crash of the process and of the machine. Deleted events are overwritten.
    """

    def __init__(self, file: str | Path, max_events: int = 500, ttl: float = 30 * 86_400):
        self.max_events, self.ttl = max_events, ttl
        self.purged = 0.0
        self.writer, self.reader = connect(file), connect(file)
        self.writes = Batcher(self.write, name="sessions-write")
        self.reads = Batcher(self.read_all, name="sessions-read")

    async def append(self, session_id: str, events: Sequence[Event]) -> None:
        await self.writes(lambda: self.insert(session_id, events))

    async def read(self, session_id: str) -> list[Event]:
        return await self.reads(session_id)

    async def delete(self, session_id: str) -> None:
        await self.writes(lambda: self.forget(session_id))

    async def check(self) -> None:
        await self.reads("")

    async def close(self) -> None:
        await self.writes.close()
        await self.reads.close()
        self.reader.close()
        self.writer.close()  # the last connection moves the log to the file

    def write(self, changes: Sequence[Callable[[], Any]]) -> list[None]:
        """Make changes in one transaction."""
        execute = self.writer.execute
        self.forgot = False
        try:
            execute("BEGIN IMMEDIATE")
            for change in changes:
                change()
            self.purge()
            execute("COMMIT")
            if self.forgot:
                execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise SessionsUnavailable(f"the sessions cannot be written: {error}") from error
        finally:
            if self.writer.in_transaction:
                execute("ROLLBACK")
        return [None] * len(changes)

    def insert(self, session_id: str, events: Sequence[Event]) -> None:
        execute, now = self.writer.execute, time.time()
        execute("DELETE FROM sessions WHERE name = ? AND ends <= ?", [session_id, now])
        session, arrived = execute(RENEW, [session_id, now + self.ttl, len(events)]).fetchone()
        (last,) = execute("SELECT max(timestamp) FROM events WHERE session = ?", [session]).fetchone()
        last = now if last is None else last
        for arrival, event in enumerate(events, start=arrived - len(events)):
            timestamp = max(now, last) if event.timestamp is None else event.timestamp
            last = max(last, timestamp)
            columns = json.dumps(event.columns) if event.columns else None
            execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", [session, timestamp, arrival, event.item_id, columns])
        execute(TRIM, [session, self.max_events])

    def forget(self, session_id: str) -> None:
        self.writer.execute("DELETE FROM sessions WHERE name = ?", [session_id])
        self.forgot = True

    def purge(self) -> None:
        now = time.monotonic()
        if now > self.purged + PURGE_INTERVAL:
            self.purged = now
            self.writer.execute("DELETE FROM sessions WHERE ends <= ?", [time.time()])

    def read_all(self, session_ids: Sequence[str]) -> list[list[Event]]:
        try:
            return [self.events(name) for name in session_ids]
        except sqlite3.Error as error:
            raise SessionsUnavailable(f"the sessions cannot be read: {error}") from error

    def events(self, session_id: str) -> list[Event]:
        rows = self.reader.execute(READ, [session_id, time.time()])
        return [Event(item, timestamp, columns and json.loads(columns)) for item, timestamp, columns in rows]


# Of equal scores the member that is smaller as text comes first, so members begin with the number of their arrival.
APPEND = """
local last = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or ARGV[1])
for place = 4, #ARGV, 2 do
    local timestamp = tonumber(ARGV[place]) or math.max(tonumber(ARGV[1]), last)
    last = math.max(last, timestamp)
    local arrival = redis.call('INCR', KEYS[2])
    redis.call('ZADD', KEYS[1], string.format('%.17g', timestamp), string.format('%016d', arrival) .. ARGV[place + 1])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
"""
ARRIVAL_DIGITS = 16


class RedisSessions:
    """[`Sessions`] in Redis or Valkey, for several servers: a sorted set of events by time for each session.

    How safe a stored event is, Redis decides: with `appendfsync always` it survives a crash. Needs
    `pip install 'hf_rec[serve]'`.
    """

    def __init__(self, url: str, max_events: int = 500, ttl: float = 30 * 86_400):
        try:
            from redis import RedisError
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise ImportError("sessions in Redis need redis: pip install 'hf_rec[serve]'") from error
        # a command is not sent twice: an event could be stored twice
        options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        self.redis = Redis.from_pool(
            BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=TIMEOUT, **options)
        )
        self.script, self.error = self.redis.register_script(APPEND), RedisError
        self.max_events, self.ttl = max_events, ttl

    def keys(self, session_id: str) -> list[str]:
        return [f"hf_rec:{{{session_id}}}:events", f"hf_rec:{{{session_id}}}:arrived"]

    async def run(self, command: Awaitable) -> Any:
        try:
            return await command
        except (self.error, OSError) as error:
            raise SessionsUnavailable(f"Redis does not answer: {error}") from error

    async def append(self, session_id: str, events: Sequence[Event]) -> None:
        values = [time.time(), self.max_events, round(1000 * self.ttl)]
        for event in events:
            values.append("" if event.timestamp is None else repr(float(event.timestamp)))
            values.append(json.dumps([event.item_id, event.columns or None]))
        await self.run(self.script(keys=self.keys(session_id), args=values))

    async def read(self, session_id: str) -> list[Event]:
        stored = await self.run(self.redis.zrange(self.keys(session_id)[0], 0, -1, withscores=True))
        events = [(json.loads(member[ARRIVAL_DIGITS:]), timestamp) for member, timestamp in stored]
        return [Event(item, timestamp, columns) for (item, columns), timestamp in events]

    async def delete(self, session_id: str) -> None:
        await self.run(self.redis.delete(*self.keys(session_id)))

    async def check(self) -> None:
        await self.run(self.redis.ping())

    async def close(self) -> None:
        await self.redis.aclose()


__all__ = [
    "Event",
    "RedisSessions",
    "Sessions",
    "SessionsUnavailable",
    "SqliteSessions",
    "check_place",
    "open_sessions",
]
