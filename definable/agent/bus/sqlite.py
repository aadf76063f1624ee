"""The event bus in an SQLite file: what it accepted outlives the process. `SQLiteBus`, and its store."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio

from definable.concurrency.clock import current_clock
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError
from definable.storage import SQLiteFile, Synchronous
from definable.storage.file_lock import WriteNotices, owned

from .base import Backlog, DeadLetter, Submission, WaitingRun
from .batch import Applied, BatchRefused, Claim, Handle, Message, Publication, WriteBatch, encode_data, last_under_keys
from .claims import MAX_DELIVERIES
from .dedupe import digest, is_digest
from .queue import DEFAULT_BUFFER, UNKNOWN_TTL, QueueBus
from .sqlite_claims import Cursors
from .sqlite_rows import (
    LONG_AGO,
    SCHEMA,
    add_columns,
    begin_groups,
    cancel,
    dead_letter,
    end,
    first_due,
    is_busy,
    list_dead,
    list_waiting_runs,
    measure_backlog,
    replace_in_place,
    replay,
    text,
)
from .store import Queue, Store

logger: logging.Logger = logger_named(__name__)

MOVED_AT_ONCE = 1_000
"""Deliveries that have come due and join the queue in one transaction."""

CLOCK_PAUSE = 5.0
"""Seconds between two looks at the machine's clock while something waits for its time; where the system has no named
pipes, also between two looks at what other processes have written."""

CLOCK_STEP = 2.0
"""Seconds by which the machine's clock must be off the event loop's to have been set."""

PROBE_KEY = "definable:probe"
"""A dedupe key that has always expired: writing it tells whether a file that failed can be written again."""


def _wall_clock() -> float:
    return current_clock().now()


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
        clock: Tells Unix seconds. While it is open, delays go by the event loop's clock; what was left by an earlier
            opening is due by this one, also when it is set meanwhile (a machine without a battery begins in the past).
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
        clock: Callable[[], float] = _wall_clock,
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

    def client(self) -> SQLiteBusClient:
        """What publishes, lists and replays while another process may have the bus open."""
        return SQLiteBusClient(self._file, self._clock)

    async def backlog(self) -> Backlog:
        """What waits for a worker; see `MeasuresBacklog`."""
        claims = self._opened().claims
        held = {*claims.held} - {delivery.handle for delivery in claims.ready}
        return await self._file.read(lambda connection: measure_backlog(connection, held))

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first; see `RemembersRuns`."""
        return await self._file.read(lambda connection: list_waiting_runs(connection, names, limit))


class SQLiteBusClient:
    """Uses a bus in a process that need not be the one that has it open, which is notified and hands the events out.

    Where no process has it open, events are handed out when one has. Every method is a transaction of its own.

    Args:
        file: The file of the bus.
        clock: Tells Unix seconds.
    """

    def __init__(self, file: SQLiteFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock

    async def publish_many(self, submissions: Sequence[Submission]) -> Sequence[bool]:
        """Accept events, all or none; dedupe keys and groups are for the process that has the bus open.

        Raises:
            ConfigurationError: The data is not JSON-serialisable, or there is a dedupe key or a group.
            StorageError: The file cannot be written; nothing was accepted.
        """
        if any(each.dedupe_key is not None or each.group is not None for each in submissions):
            raise ConfigurationError("a dedupe key or a group is for the process that has the bus open")
        now = self._clock()
        bodies = [encode_data(each.name, each.data) for each in submissions]
        row = "INSERT INTO definable_event_later (due_at, id, name, attempt, data, key) VALUES (?, ?, ?, 0, ?, ?)"

        def insert(connection: sqlite3.Connection) -> None:
            add_columns(connection)
            for each, body in zip(submissions, bodies, strict=True):
                if each.key is not None:
                    cancel(connection, each.key)
                due_at = now + each.delay if each.delay > 0 else float(LONG_AGO)
                connection.execute(row, (due_at, os.urandom(12).hex(), text(each.name), body, each.key))

        await self._file.write(insert)
        WriteNotices(self._file.path).send()
        return [True] * len(submissions)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """The dead letters, oldest first.

        Raises:
            StorageError: The file cannot be read.
        """
        return await self._file.read(list_dead)

    async def replay(self, letter_id: str) -> bool:
        """Accept a dead letter anew, as a first attempt; False when there is none of that id.

        Raises:
            StorageError: The file cannot be written.
        """

        def replayed(connection: sqlite3.Connection) -> bool:
            add_columns(connection)
            return replay(connection, letter_id)

        found = await self._file.write(replayed)
        WriteNotices(self._file.path).send()
        return found


class SQLiteStore(Store):
    """The messages of a file, for one opening.

    A message is in one of three tables: in the queue by its position, later until it is due, dead. Claiming it only
    counts the claim: the row stays where it is until it is settled, so that it is still there when this process dies.

    Args:
        file: Where they are.
        clock: Tells Unix seconds.
        unknown_ttl: Seconds after which messages without a handler here are dead letters.
    """

    durable: bool = True
    keeps_trying: bool = False
    max_publications: int = 5_000
    orders_groups: bool = True

    def __init__(self, file: SQLiteFile, clock: Callable[[], float], unknown_ttl: float) -> None:
        self._file = file
        self._clock = clock
        self._cursors = Cursors(unknown_ttl)
        self._began = 0.0
        """Unix seconds at zero of the event loop's clock, which does not see the machine's being set."""
        self._last_earlier = 0
        """The last number of what earlier openings left waiting for its time."""
        self._next_due: float | None = None
        """Unix seconds."""
        self._has_failed = False
        self._notices = WriteNotices(file.path)
        self._is_notified = False

    def __repr__(self) -> str:
        return repr(self._file)

    @property
    def failure(self) -> Exception | None:
        return self._file.failure

    @asynccontextmanager
    async def opened(self, queue: Queue) -> AsyncGenerator[Sequence[tuple[str, float]], None]:
        async with self._file.open(), owned(self._file.path):
            self._began = self._clock() - anyio.current_time()
            now = self._now()
            keys = await self._file.write(lambda connection: self._load(connection, now))
            with self._notices.received() as self._is_notified:
                async with anyio.create_task_group() as listening:
                    if self._is_notified:
                        listening.start_soon(self._listen, queue)
                    yield [(key, expires_at - now) for key, expires_at in keys]
                    listening.cancel_scope.cancel()

    async def _listen(self, queue: Queue) -> None:
        """Have a flush made when another process has written to the file: it claims what has come due."""
        while True:
            await self._notices.wait()
            self._next_due = self._now()
            queue.request_flush()

    def _now(self) -> float:
        return self._began + anyio.current_time()

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        began, next_due, before = self._began, self._next_due, dict(vars(self._cursors))
        step = self._clock() - self._now()
        step = step if abs(step) > CLOCK_STEP else 0.0
        self._began += step
        now = self._now()
        try:
            applied = await self._file.write(lambda connection: self._apply(connection, batch, claim, now, step))
        except Exception as error:
            vars(self._cursors).update(before)  # the transaction was undone
            self._began, self._next_due, self._has_failed = began, next_due, True
            if isinstance(error.__cause__, sqlite3.DataError):
                raise BatchRefused(str(error)) from error
            raise
        self._has_failed = False
        return applied

    async def is_drained(self) -> bool:
        waits = self._cursors.unclaimed > self._cursors.unknown_rows
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
        if gone is None or not self._cursors.unclaimed:
            return ()
        logger.error(
            "%d events that waited are not handled, unless the file is brought back: %s", self._cursors.unclaimed, gone
        )
        lost, self._cursors.unclaimed = self._cursors.unclaimed, 0
        return [Message(None, "", "", {}, 0, 1)] * lost

    # --- in a worker thread: one transaction at a time

    def _load(self, connection: sqlite3.Connection, now: float) -> Sequence[tuple[str, float]]:
        """Read what the file holds; returns its dedupe keys, and forgets those that have expired."""
        add_columns(connection)
        begin_groups(connection)
        connection.execute("DELETE FROM definable_event_key WHERE expires_at <= ?", (now,))
        self._cursors.last_position, self._cursors.unclaimed = connection.execute(
            "SELECT coalesce(max(position), 0), count(*) FROM definable_event"
        ).fetchone()
        keys = connection.execute("SELECT key, expires_at FROM definable_event_key ORDER BY expires_at").fetchall()
        earlier = [key for key, _ in keys if not is_digest(key)]
        if earlier:  # of a version that stored keys as they were
            update = "UPDATE OR REPLACE definable_event_key SET key = ? WHERE key = ?"
            connection.executemany(update, [(digest(key), key) for key in earlier])
            keys = [(key if is_digest(key) else digest(key), expires_at) for key, expires_at in keys]
        self._next_due = first_due(connection)
        [(self._last_earlier,)] = connection.execute("SELECT coalesce(max(number), 0) FROM definable_event_later")
        return keys

    def _apply(
        self, connection: sqlite3.Connection, batch: WriteBatch, claim: Claim, now: float, step: float
    ) -> Applied:
        """Everything of one flush. What is kept in memory changes at the end, when nothing can fail but the commit."""
        if step:  # what waits here was reckoned by the clock as it was; what was there before by one that was right
            logger.warning("the clock was set by %.0f s: events that wait keep their delays", step)
            update = "UPDATE definable_event_later SET due_at = due_at + ? WHERE number > ?"
            connection.execute(update, (step, self._last_earlier))
            self._next_due = first_due(connection)
        cursors = self._cursors
        if claim.known is not None:
            cursors.learn_names(connection, claim.known)
        last = self._publish(connection, batch, now, cursors.last_position)
        self._settle(connection, batch, now)
        cursors.give_back([position for position, due_at in batch.released if not due_at])
        cancelled = [key for key in batch.cancelled if cancel(connection, key)]
        replayed = [id for id in batch.replayed if replay(connection, id)]
        if batch.settlements or replayed:  # more may have come due
            self._next_due = first_due(connection)
        last += self._move_due(connection, now, last) if (self._next_due or now + 1) <= now else 0
        joined = last - cursors.last_position
        cursors.last_position = last
        cursors.unclaimed += joined
        cursors.is_all_claimed = cursors.is_all_claimed and not joined
        claimed = cursors.claim(connection, claim, now) if claim.demand and cursors.unclaimed else ()
        self._next_due = first_due(connection)
        has_more = cursors.unclaimed > 0 and not cursors.is_all_claimed
        next_due = min(filter(None, (self._next_due, cursors.next_expiry(connection, now))), default=None)
        if next_due is not None or not self._is_notified:
            next_due = min(next_due or math.inf, now + CLOCK_PAUSE)
        return Applied(claimed, has_more, None if next_due is None else next_due - self._began, (), replayed, cancelled)

    def _publish(self, connection: sqlite3.Connection, batch: WriteBatch, now: float, last: int) -> int:
        """Write down what is new; returns the last position."""
        new = last_under_keys(batch.publications)
        replaced = [(each.replaces,) for each in new if each.replaces is not None and not each.keeps_time]
        if replaced:
            connection.executemany("DELETE FROM definable_event_later WHERE key = ?", replaced)
        later = [each for each in new if each.due_at and not (each.keeps_time and replace_in_place(connection, each))]
        if later or batch.nacked or batch.released:  # the numbers of the newest that are gone are given again
            [(newest,)] = connection.execute("SELECT coalesce(max(number), 0) FROM definable_event_later")
            self._last_earlier = min(self._last_earlier, newest)
        behind = self._behind(connection, new)
        rows = [
            (position, each.id, text(each.name), each.data, each.group)
            for position, each in enumerate((each for each in new if not (each.due_at or each in behind)), last + 1)
        ]
        if rows:
            insert = "INSERT INTO definable_event (position, id, name, attempt, data, grp) VALUES (?, ?, ?, 0, ?, ?)"
            connection.executemany(insert, rows)
        if later or behind:
            times = [(self._began + each.due_at, each) for each in later] + [(math.inf, each) for each in behind]
            connection.executemany(
                """INSERT INTO definable_event_later (due_at, id, name, attempt, data, key, grp)
                VALUES (?, ?, ?, 0, ?, ?, ?)""",
                [(at, each.id, text(each.name), each.data, each.replaces, each.group) for at, each in times],
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

    def _behind(
        self, connection: sqlite3.Connection, publications: Iterable[Publication]
    ) -> Mapping[Publication, None]:
        """Those of a group of which something else is to be handled first."""
        busy: dict[str, bool] = {}
        behind: dict[Publication, None] = {}
        for each in publications:
            if each.group is not None:
                if busy.get(each.group) or is_busy(connection, each.group):
                    behind[each] = None
                busy[each.group] = True
        return behind

    def _settle(self, connection: sqlite3.Connection, batch: WriteBatch, now: float) -> None:
        later = [(self._began + due_at, attempts, 0, position) for position, due_at, attempts in batch.nacked]
        back = [(position,) for position, due_at in batch.released if not due_at]
        for positions, change in ((batch.parked, "- 1"), (batch.begun, "+ 1")):
            if positions:
                update = f"UPDATE definable_event SET claims = claims {change} WHERE position = ?"
                connection.executemany(update, [(position,) for position in positions])
        delayed = [(self._began + due_at, position) for position, due_at in batch.released if due_at]
        if later:
            copy = """INSERT INTO definable_event_later (due_at, id, name, attempt, data, claims, grp)
                SELECT ?, id, name, ?, data, ?, grp FROM definable_event WHERE position = ?"""
            connection.executemany(copy, later)
        if delayed:
            copy = """INSERT INTO definable_event_later (due_at, id, name, attempt, data, claims, grp)
                SELECT ?, id, name, attempt, data, claims - 1, grp FROM definable_event WHERE position = ?"""
            connection.executemany(copy, delayed)
        if batch.dead:
            dead_letter(connection, [(text(why), now, attempts, position) for position, why, attempts in batch.dead])
        if batch.acked:
            end(connection, [(position,) for position in batch.acked])
        moved = [row[-1:] for row in (*later, *delayed)]
        if moved:
            connection.executemany("DELETE FROM definable_event WHERE position = ?", moved)
        if back:
            connection.executemany("UPDATE definable_event SET claims = claims - 1 WHERE position = ?", back)

    def _move_due(self, connection: sqlite3.Connection, now: float, last: int) -> int:
        due = connection.execute(
            "SELECT number FROM definable_event_later WHERE due_at <= ? ORDER BY due_at, number LIMIT ?",
            (now, MOVED_AT_ONCE),
        ).fetchall()
        connection.executemany(
            """INSERT INTO definable_event (position, id, name, attempt, data, claims, grp)
            SELECT ?, id, name, attempt, data, claims, grp FROM definable_event_later WHERE number = ?""",
            [(position, number) for position, (number,) in enumerate(due, last + 1)],
        )
        connection.executemany("DELETE FROM definable_event_later WHERE number = ?", due)
        return len(due)
