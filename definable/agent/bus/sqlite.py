"""The event bus in an SQLite file: what it accepted outlives the process. `SQLiteBus`, and its store's SQL."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import anyio
from anyio import to_thread

from definable.errors import StorageError
from definable.storage import SQLiteFile, Synchronous
from definable.storage.file_lock import FileLock
from definable.storage.sqlite_file import create_private

from .base import MAX_SCANNED, DeadLetter, WaitingRun
from .batch import Applied, BatchRefused, Claim, Handle, Message, WriteBatch, decode_data
from .claims import MAX_DELIVERIES
from .dedupe import digest, is_digest
from .queue import DEFAULT_BUFFER, UNKNOWN_TTL, QueueBus
from .store import Queue, Store

logger: logging.Logger = logging.getLogger(__name__)

MAX_DEAD_LETTERS = 10_000
"""Of the deliveries that died, so many of the last ones are kept."""

MOVED_AT_ONCE = 1_000
"""Deliveries that have come due and join the queue in one transaction."""

RELEASE_TIMEOUT = 5.0
"""Seconds for which giving up the file's lock may hold up a shutdown."""

PROBE_KEY = "definable:probe"
"""A dedupe key that has always expired: writing it tells whether a file that failed can be written again."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS definable_event (
        position INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        data BLOB NOT NULL,
        claims INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE IF NOT EXISTS definable_event_later (
        number INTEGER PRIMARY KEY,
        due_at REAL NOT NULL,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        data BLOB NOT NULL,
        claims INTEGER NOT NULL DEFAULT 0,
        key TEXT
    )""",
    "CREATE INDEX IF NOT EXISTS definable_event_later_by_time ON definable_event_later (due_at)",
    """CREATE TABLE IF NOT EXISTS definable_event_dead (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        data BLOB NOT NULL,
        why TEXT NOT NULL,
        died_at REAL NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS definable_event_key (
        key TEXT PRIMARY KEY,
        expires_at REAL NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS definable_event_unknown (
        name TEXT PRIMARY KEY,
        since REAL NOT NULL
    ) WITHOUT ROWID""",
)

ADDED_COLUMNS = (
    ("definable_event", "claims", "INTEGER NOT NULL DEFAULT 0"),
    ("definable_event_later", "claims", "INTEGER NOT NULL DEFAULT 0"),
    ("definable_event_later", "key", "TEXT"),
)
"""Columns that files of 0.2 and before lack: added when such a file is opened."""

Row: TypeAlias = tuple[int, str, str, int, bytes, int]
"""Position, id, name, earlier attempts, data, earlier claims of which nothing came: attempts too."""


class SQLiteBus(QueueBus):
    """Keeps events in a file, embedded: no server, no dependency. For one process; the file refuses a second.

    - What `await publish` accepted survives the death of the process (`kill -9`) and is handed out after a restart, at
      least once, in its order. `publish_nowait` never blocks and is as safe a few milliseconds later: one task commits
      whatever has come together since its last commit.
    - No more is claimed than can be begun, however many wait; messages behind the limit of a trigger or for a chat
      stay in the file. A claim is an attempt, and written before anybody has the message: one whose handler ends the
      process is the next attempt after a restart, and a dead letter after `max_deliveries`.
    - Delays of `nack` go on over a restart. An `ack` is written with the next commit; one that a crash loses means a
      repeat.
    - While the file fails (a full disk), `publish` raises, nothing is handed out, and what `publish_nowait` has
      accepted is kept and tried again; `failure` says why.
    - The last 10,000 dead letters are kept, and the last 100,000 dedupe keys of about the same time to live.
    - A delivery names its trigger by the source and the handler's qualified name. One whose handler is unknown waits
      for a version of the service that knows it, for `unknown_ttl` seconds, and is a dead letter then.

    Args:
        path: The file; it and its directory are made when they do not exist. A session store may share it.
        synchronous: `"FULL"` has the last commits survive a loss of power too, and makes them slower.
        buffer: How many publications may wait to be written; beyond it `publish_nowait` raises and `publish` waits.
        clock: Tells Unix seconds; read when the bus is opened.
        max_deliveries: How often a message is handed out although nothing came of it, as when its handler ends the
            process.
        unknown_ttl: Seconds.

    Raises:
        ConfigurationError: The path names no file on disk, or a value is out of its range.

    Example:
        >>> from definable.agent import Agent
        >>> from definable.agent.bus import SQLiteBus
        >>> agent = Agent("offline", bus=SQLiteBus("events.db"))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "NORMAL",
        buffer: int = DEFAULT_BUFFER,
        clock: Callable[[], float] = time.time,
        max_deliveries: int = MAX_DELIVERIES,
        unknown_ttl: float = UNKNOWN_TTL,
    ) -> None:
        super().__init__(buffer=buffer, max_deliveries=max_deliveries, waiting="wait to be written")
        self._file = SQLiteFile(path, SCHEMA, synchronous=synchronous, pinned=True)
        self._clock = clock
        self._unknown_ttl = unknown_ttl

    def __repr__(self) -> str:
        return f"SQLiteBus({os.fspath(self._file.path)!r})"

    def new_store(self) -> SQLiteStore:
        return SQLiteStore(self._file, self._clock, self._unknown_ttl)

    @property
    def durable(self) -> bool:
        return True

    @property
    def shared(self) -> bool:
        return False

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first; see `RemembersRuns`."""
        return await self._file.read(lambda connection: list_waiting_runs(connection, names, limit))


class _Found(NamedTuple):
    rows: Sequence[Row]
    is_all: bool
    """Whether nothing more may be claimed."""


class SQLiteStore(Store):
    """The messages of a file, for one opening.

    A message is in one of three tables: in the queue by its position, later until it is due, dead. Claiming it only
    counts the claim: the row stays where it is until it is settled, so that it is still there when this process dies.
    Cursors divide the queue: before them is what this opening has claimed, behind them what waits. A name of which so
    many may be claimed has a cursor of its own, and so has one without a handler here.

    Args:
        file: Where they are.
        clock: Tells Unix seconds.
        unknown_ttl: Seconds after which messages without a handler here are dead letters.
    """

    durable: bool = True
    keeps_trying: bool = False
    max_publications: int = 5_000

    def __init__(self, file: SQLiteFile, clock: Callable[[], float], unknown_ttl: float) -> None:
        self._file = file
        self._clock = clock
        self._unknown_ttl = unknown_ttl
        self._began = 0.0
        """Unix seconds at zero of the event loop's clock: steps of the machine's clock do not matter while open."""
        self._last_position = 0
        """The last that was given away. They only grow, so that nothing new is before a cursor."""
        self._cursor = 0
        self._cursors: dict[str, int] = {}
        """Of names with a cursor of their own."""
        self._unclaimed = 0
        """Rows behind the cursors."""
        self._unknown: dict[str, float] = {}
        """Since when (Unix seconds) there has been no handler for these names."""
        self._unknown_rows = 0
        self._known: Collection[str] | None = None
        self._is_all_claimed = False
        """Whether nothing of what waits may be claimed."""
        self._next_due: float | None = None
        """Unix seconds."""
        self._has_failed = False

    def __repr__(self) -> str:
        return repr(self._file)

    @property
    def failure(self) -> Exception | None:
        return self._file.failure

    @asynccontextmanager
    async def opened(self, queue: Queue) -> AsyncGenerator[Sequence[tuple[str, float]], None]:
        async with self._file.open(), _owned(self._file.path):
            self._began = self._clock() - anyio.current_time()
            now = self._now()
            keys = await self._file.write(lambda connection: self._load(connection, now))
            yield [(key, expires_at - now) for key, expires_at in keys]

    def _now(self) -> float:
        return self._began + anyio.current_time()

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        now, before = self._now(), dict(vars(self))
        try:
            applied = await self._file.write(lambda connection: self._apply(connection, batch, claim, now))
        except Exception as error:
            vars(self).update(before, _has_failed=True)  # the transaction was undone
            if isinstance(error.__cause__, sqlite3.DataError):
                raise BatchRefused(str(error)) from error
            raise
        self._has_failed = False
        return applied

    async def is_drained(self) -> bool:
        waits = self._unclaimed > self._unknown_rows
        return self.failure is not None or not (waits or (self._next_due or self._now() + 1) <= self._now())

    async def dead_letters(self) -> Sequence[DeadLetter]:
        return await self._file.read(list_dead)

    async def close(self, held: Sequence[Handle]) -> None:
        if held and self.failure is None:
            positions = [(position,) for position in held]
            update = "UPDATE definable_event SET attempt = attempt + 1, claims = claims - 1 WHERE position = ?"
            await self._file.write(lambda connection: connection.executemany(update, positions) and None)

    def take_all(self) -> Sequence[Message]:
        """What waited in a file that is gone."""
        gone = self.failure
        if gone is None or not self._unclaimed:
            return ()
        logger.error(
            "%d events that waited are not handled, unless the file is brought back: %s", self._unclaimed, gone
        )
        lost, self._unclaimed = self._unclaimed, 0
        return [Message(None, "", "", {}, 0, 1)] * lost

    # --- in a worker thread: one transaction at a time

    def _load(self, connection: sqlite3.Connection, now: float) -> Sequence[tuple[str, float]]:
        """Read what the file holds; returns its dedupe keys, and forgets those that have expired."""
        for table, column, kind in ADDED_COLUMNS:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if column not in columns:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        connection.execute("DELETE FROM definable_event_key WHERE expires_at <= ?", (now,))
        self._last_position, self._unclaimed = connection.execute(
            "SELECT coalesce(max(position), 0), count(*) FROM definable_event"
        ).fetchone()
        keys = connection.execute("SELECT key, expires_at FROM definable_event_key ORDER BY expires_at").fetchall()
        earlier = [key for key, _ in keys if not is_digest(key)]
        if earlier:  # of a version that stored keys as they were
            update = "UPDATE OR REPLACE definable_event_key SET key = ? WHERE key = ?"
            connection.executemany(update, [(digest(key), key) for key in earlier])
            keys = [(key if is_digest(key) else digest(key), expires_at) for key, expires_at in keys]
        self._next_due = _first_due(connection)
        return keys

    def _apply(self, connection: sqlite3.Connection, batch: WriteBatch, claim: Claim, now: float) -> Applied:
        """Everything of one flush. What is kept in memory changes at the end, when nothing can fail but the commit."""
        if claim.known is not self._known and claim.known is not None:
            self._learn_names(connection, claim.known, now)
        last = self._last_position
        last = self._publish(connection, batch, now, last)
        self._settle(connection, batch, now)
        cancelled = [key for key in batch.cancelled if _cancel(connection, key)]
        replayed = [id for number, id in enumerate(batch.replayed, 1) if _replay(connection, id, last + number)]
        last += len(batch.replayed)
        due = self._move_due(connection, now, last) if (self._next_due or now + 1) <= now else 0
        last += due
        joined = last - self._last_position - len(batch.replayed) + len(replayed)
        self._last_position = last
        self._unclaimed += joined
        self._is_all_claimed = self._is_all_claimed and not joined
        claimed = self._claim(connection, claim, now) if claim.demand and self._unclaimed else ()
        self._next_due = _first_due(connection)
        has_more = self._unclaimed > 0 and not self._is_all_claimed
        next_due = min(filter(None, (self._next_due, self._next_expiry(connection, now))), default=None)
        return Applied(claimed, has_more, None if next_due is None else next_due - self._began, (), replayed, cancelled)

    def _publish(self, connection: sqlite3.Connection, batch: WriteBatch, now: float, last: int) -> int:
        """Write down what is new; returns the last position."""
        later = [each for each in batch.publications if each.due_at]
        replaced = [(each.replaces,) for each in batch.publications if each.replaces is not None]
        if replaced:
            connection.executemany("DELETE FROM definable_event_later WHERE key = ?", replaced)
        rows = [
            (position, each.id, _text(each.name), each.data)
            for position, each in enumerate((each for each in batch.publications if not each.due_at), last + 1)
        ]
        if rows:
            insert = "INSERT INTO definable_event (position, id, name, attempt, data) VALUES (?, ?, ?, 0, ?)"
            connection.executemany(insert, rows)
        if later:
            connection.executemany(
                "INSERT INTO definable_event_later (due_at, id, name, attempt, data, key) VALUES (?, ?, ?, 0, ?, ?)",
                [(self._began + each.due_at, each.id, _text(each.name), each.data, each.replaces) for each in later],
            )
        if batch.forgotten:
            connection.executemany("DELETE FROM definable_event_key WHERE key = ?", [(key,) for key in batch.forgotten])
        keys = [(each.key, now + each.key_ttl) for each in batch.publications if each.key is not None]
        keys += [(key, self._began + expires_at) for key, expires_at in batch.keys.items()]
        if self._has_failed:
            keys.append((PROBE_KEY, 0.0))
        if keys:
            connection.executemany("INSERT OR REPLACE INTO definable_event_key VALUES (?, ?)", keys)
        return last + len(rows)

    def _settle(self, connection: sqlite3.Connection, batch: WriteBatch, now: float) -> None:
        later = [(self._began + due_at, attempts, 0, position) for position, due_at, attempts in batch.nacked]
        back = [(position,) for position, due_at in batch.released if not due_at]
        for positions, change in ((batch.parked, "- 1"), (batch.begun, "+ 1")):
            if positions:
                update = f"UPDATE definable_event SET claims = claims {change} WHERE position = ?"
                connection.executemany(update, [(position,) for position in positions])
        delayed = [(self._began + due_at, position) for position, due_at in batch.released if due_at]
        if later:
            copy = """INSERT INTO definable_event_later (due_at, id, name, attempt, data, claims)
                SELECT ?, id, name, ?, data, ? FROM definable_event WHERE position = ?"""
            connection.executemany(copy, later)
        if delayed:
            copy = """INSERT INTO definable_event_later (due_at, id, name, attempt, data, claims)
                SELECT ?, id, name, attempt, data, claims - 1 FROM definable_event WHERE position = ?"""
            connection.executemany(copy, delayed)
        if batch.dead:
            _dead_letter(connection, [(_text(why), now, attempts, position) for position, why, attempts in batch.dead])
        gone = [(position,) for position in batch.acked] + [row[-1:] for row in later] + [row[-1:] for row in delayed]
        if gone:
            connection.executemany("DELETE FROM definable_event WHERE position = ?", gone)
        if back:
            connection.executemany("UPDATE definable_event SET claims = claims - 1 WHERE position = ?", back)

    def _move_due(self, connection: sqlite3.Connection, now: float, last: int) -> int:
        due = connection.execute(
            "SELECT number FROM definable_event_later WHERE due_at <= ? ORDER BY due_at, number LIMIT ?",
            (now, MOVED_AT_ONCE),
        ).fetchall()
        connection.executemany(
            """INSERT INTO definable_event (position, id, name, attempt, data, claims)
            SELECT ?, id, name, attempt, data, claims FROM definable_event_later WHERE number = ?""",
            [(position, number) for position, (number,) in enumerate(due, last + 1)],
        )
        connection.executemany("DELETE FROM definable_event_later WHERE number = ?", due)
        return len(due)

    # --- claims

    def _claim(self, connection: sqlite3.Connection, claim: Claim, now: float) -> Sequence[Message]:
        before, had_cursors = self._cursor, bool(self._cursors)
        self._cursors = dict(self._cursors)  # anew, so that what a failed transaction changed can be taken back
        found = self._find(connection, claim, now)
        self._is_all_claimed = found.is_all
        self._unclaimed -= len(found.rows)
        if not found.rows:
            return ()
        count = "UPDATE definable_event SET claims = claims + 1 WHERE position"
        if had_cursors or self._cursors:
            connection.executemany(f"{count} = ?", [row[:1] for row in found.rows])
        else:  # every position between them is free or among them
            connection.execute(f"{count} > ? AND position <= ?", (before, self._cursor))
        claimed: list[Message] = []
        unread: list[tuple[str, float, int, Handle]] = []
        for position, id, name, attempts, data, claims in found.rows:
            try:
                claimed.append(Message(position, id, name, decode_data(data), attempts + claims, claims + 1))
            except StorageError as error:
                logger.error("the event %s is a dead letter: %s", id, error)
                unread.append((_text(str(error)), now, attempts + claims + 1, position))
        if unread:
            _dead_letter(connection, unread)
        return claimed

    def _find(self, connection: sqlite3.Connection, claim: Claim, now: float) -> _Found:
        """The first rows behind the cursors, those of names with a cursor of their own first.

        A cursor behind which too few were found goes to the end, so that no row is looked through again and again.
        """
        rows: list[Row] = []
        left = {_text(name): granted for name, granted in claim.grants.items()} if claim.grants else {}
        for name in [name for name in self._cursors if name not in self._unknown]:
            wanted = int(min(left.get(name, claim.demand), claim.demand - len(rows)))
            if wanted > 0:
                found = _next(connection, self._cursors[name], wanted, "AND name = ?", name)
                self._cursors[name] = found[-1][0] if len(found) == wanted else self._last_position
                left[name] = left.get(name, math.inf) - len(found)
                rows += found
        while wanted := claim.demand - len(rows):
            marks = ", ".join("?" * len(self._cursors))
            others = _next(connection, self._cursor, wanted, f"AND name NOT IN ({marks})", *self._cursors)
            rows += [row for row in others if self._may_claim(connection, row, left, now)]
            if len(others) < wanted:
                self._cursor = self._last_position
                for name in [name for name, cursor in self._cursors.items() if cursor == self._last_position]:
                    del self._cursors[name]  # nothing of it waits
                return _Found(rows, is_all=True)
        return _Found(rows, is_all=False)

    def _may_claim(self, connection: sqlite3.Connection, row: Row, left: dict[str, float], now: float) -> bool:
        """Move the common cursor behind a row; whether it may be claimed, or is left to a cursor of its name's own."""
        self._cursor, name = row[0], row[2]
        if name in self._cursors:
            return False
        if self._known is not None and name not in self._known:
            self._leave(connection, name, now)
            return False
        if left.get(name, 1) < 1:
            self._cursors[name] = row[0] - 1
            return False
        if name in left:
            left[name] -= 1
        return True

    # --- names without a handler here

    def _learn_names(self, connection: sqlite3.Connection, known: Collection[str], now: float) -> None:
        self._known = frozenset(map(_text, known))
        rows = connection.execute("SELECT name, since FROM definable_event_unknown").fetchall()
        found = [(name,) for name, _ in rows if name in self._known]
        connection.executemany("DELETE FROM definable_event_unknown WHERE name = ?", found)

    def _leave(self, connection: sqlite3.Connection, name: str, now: float) -> None:
        """Leave what is for a name without a handler to a version that has one."""
        self._cursors[name] = self._cursor - 1
        connection.execute("INSERT OR IGNORE INTO definable_event_unknown VALUES (?, ?)", (name, now))
        [(since,)] = connection.execute("SELECT since FROM definable_event_unknown WHERE name = ?", (name,))
        self._unknown = {**self._unknown, name: since}
        [(count,)] = connection.execute("SELECT count(*) FROM definable_event WHERE name = ?", (name,))
        self._unknown_rows += count
        logger.warning(
            "no handler is registered for %r: %d deliveries wait for one, and are dead letters in %.1f h",
            name,
            count,
            max(since + self._unknown_ttl - now, 0) / 3600,
        )

    def _next_expiry(self, connection: sqlite3.Connection, now: float) -> float | None:
        """Dead-letter what waited too long for a handler; returns when more has."""
        for name, since in [*self._unknown.items()]:
            if since + self._unknown_ttl <= now:
                self._unknown = {other: at for other, at in self._unknown.items() if other != name}
                why = f"no handler is registered for {name!r}"
                rows = connection.execute(
                    "SELECT position, attempt + claims FROM definable_event WHERE name = ?", (name,)
                )
                dead = [(_text(why), now, attempt, position) for position, attempt in rows.fetchall()]
                _dead_letter(connection, dead)
                connection.execute("DELETE FROM definable_event_unknown WHERE name = ?", (name,))
                self._unclaimed -= len(dead)
                self._unknown_rows -= len(dead)
                logger.error("%s: %d deliveries are dead letters", why, len(dead))
        return min((since + self._unknown_ttl for since in self._unknown.values()), default=None)


def _next(connection: sqlite3.Connection, cursor: int, count: int, condition: str, *names: str) -> list[Row]:
    return connection.execute(
        f"""SELECT position, id, name, attempt, data, claims FROM definable_event
        WHERE position > ? {condition} ORDER BY position LIMIT ?""",
        (cursor, *names, count),
    ).fetchall()


def _dead_letter(connection: sqlite3.Connection, dead: Sequence[tuple[str, float, int, Handle]]) -> None:
    """Make dead letters of rows: why, when (Unix seconds), attempts, position."""
    copy = """INSERT INTO definable_event_dead (why, died_at, attempt, id, name, data)
        SELECT ?, ?, ?, id, name, data FROM definable_event WHERE position = ?"""
    connection.executemany(copy, dead)
    connection.executemany("DELETE FROM definable_event WHERE position = ?", [row[-1:] for row in dead])
    connection.execute(
        "DELETE FROM definable_event_dead WHERE number <= (SELECT max(number) FROM definable_event_dead) - ?",
        (MAX_DEAD_LETTERS,),
    )


def _replay(connection: sqlite3.Connection, letter_id: str, position: int) -> bool:
    copied = connection.execute(
        """INSERT INTO definable_event (position, id, name, attempt, data)
        SELECT ?, id, name, 0, data FROM definable_event_dead WHERE id = ?""",
        (position, letter_id),
    )
    connection.execute("DELETE FROM definable_event_dead WHERE id = ?", (letter_id,))
    return copied.rowcount > 0


def _cancel(connection: sqlite3.Connection, key: str) -> bool:
    return connection.execute("DELETE FROM definable_event_later WHERE key = ?", (key,)).rowcount > 0


def _first_due(connection: sqlite3.Connection) -> float | None:
    due_at: float | None = connection.execute("SELECT min(due_at) FROM definable_event_later").fetchone()[0]
    return due_at


def _text(text: str) -> str:
    """Text as SQLite keeps it: in half of a surrogate pair, which UTF-8 lacks, its escape."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def list_dead(connection: sqlite3.Connection) -> Sequence[DeadLetter]:
    """The dead letters, oldest first; of those that cannot be read, all but their data."""
    rows = connection.execute("SELECT id, name, data, attempt, why, died_at FROM definable_event_dead ORDER BY number")
    return [DeadLetter(id, name, _readable(data), attempt, why, at) for id, name, data, attempt, why, at in rows]


def list_waiting_runs(connection: sqlite3.Connection, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
    """The promised runs of deliveries that are not settled, oldest first."""
    marks = ", ".join("?" * len(names))
    rows = connection.execute(
        f"""SELECT data FROM (
            SELECT 0 AS later, position AS number, data FROM definable_event WHERE name IN ({marks})
            UNION ALL SELECT 1, number, data FROM definable_event_later WHERE name IN ({marks})
        ) ORDER BY later, number LIMIT ?""",
        [*map(_text, names), *map(_text, names), limit],
    )
    return WaitingRun.all_of(_readable(data) for data in _bounded(rows))


def _bounded(rows: Iterable[tuple[bytes]]) -> Iterable[bytes]:
    scanned = 0
    for (data,) in rows:
        scanned += len(data)
        if scanned > MAX_SCANNED:
            break
        yield data


def _readable(data: bytes) -> dict[str, Any]:
    try:
        return decode_data(data)
    except StorageError:  # why it died says so
        return {}


@asynccontextmanager
async def _owned(path: Path) -> AsyncGenerator[None, None]:
    """Be the only owner of a file, which SQLite has open, while the context is open.

    There are two locks. One is on the database's own file, for as long as that file is the one of its name. The other
    is an exclusive transaction of SQLite's on an empty file beside, so it works wherever SQLite does, among threads as
    well. The operating system ends both with their process. The empty file stays: removing it would race.

    Raises:
        StorageError: Another process or bus is, or the lock cannot be had.
    """
    release = await to_thread.run_sync(_acquire, path)
    try:
        yield
    finally:
        # Shielded, or a cancelled service would keep the lock for as long as its process lives.
        with anyio.move_on_after(RELEASE_TIMEOUT, shield=True):
            await to_thread.run_sync(release, abandon_on_cancel=True)


def _acquire(path: Path) -> Callable[[], None]:
    """Get both locks; returns what lets go of them."""
    lock_path = path.resolve().with_name(f"{path.resolve().name}-owner")
    with ExitStack() as locks:
        try:
            locks.callback(_locked(lock_path).close)
            locks.callback(FileLock(path).release)
        except (sqlite3.Error, OSError) as error:
            busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY or isinstance(error, BlockingIOError)
            if not busy:
                raise StorageError(f"SQLite file {path}: its lock {lock_path.name} cannot be had ({error})") from error
            raise StorageError(
                f"SQLite file {path}: another SQLiteBus has it open, in this or in another process, and each needs a "
                "file of its own; RedisBus is for events that processes share"
            ) from error
        return locks.pop_all().close


def _locked(path: Path) -> sqlite3.Connection:
    create_private(path)
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("PRAGMA journal_mode = OFF")  # nothing is written, and no journal shall be left behind
        lock.execute("BEGIN EXCLUSIVE")
    except BaseException:
        lock.close()
        raise
    return lock
