"""The tables of the `SQLiteBus`, and what one transaction does to them. Runs in worker threads; knows no event loop.

A delivery stands in one of three tables: in the line, by its position; later, until it is due; dead. Taking it out of
the line's front only counts the attempt: the row stays where it is until the delivery is settled, so that it is still
there when this process dies.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from definable.errors import StorageError

from .base import MAX_SCANNED, DeadLetter, WaitingRun
from .dedupe import digest, is_digest
from .event_json import decode_data
from .sqlite_batch import Batch

logger: logging.Logger = logging.getLogger(__name__)

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS definable_event (
        position INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        data BLOB NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS definable_event_later (
        number INTEGER PRIMARY KEY,
        due_at REAL NOT NULL,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        data BLOB NOT NULL
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
)

MAX_DEAD_LETTERS = 10_000
"""Of the deliveries that died, so many of the last ones are kept."""

MOVED_AT_ONCE = 1_000
"""Deliveries that have come due and join the line in one transaction."""


NEXT = "SELECT position, id, name, attempt + 1, data FROM definable_event WHERE position > ?"


class Taken(NamedTuple):
    """A delivery that was taken out of the line's front, this attempt counted."""

    position: int
    id: str
    name: str
    attempt: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file holds when it is opened."""

    last_position: int
    in_line: int
    next_due: float | None
    """Unix seconds."""
    keys: Sequence[tuple[str, float]]
    """Dedupe keys and when they expire (Unix seconds), the first to expire first."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one transaction is to do beside its batch."""

    cursor: int
    """The position behind which nobody has taken anything."""
    demand: int
    """How many deliveries are asked for."""
    now: float
    """Unix seconds."""
    due_position: int | None
    """The first of `MOVED_AT_ONCE` positions for what is due; None when nothing is."""
    last_position: int = 0
    """No row has a higher position when the transaction is over."""
    named: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Names that have a cursor of their own, and how many of them may be taken."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one transaction has done."""

    taken: Sequence[Taken]
    joined: int
    """How many deliveries have joined the line, new ones, due ones, replayed ones, less those that left it unread."""
    replayed: frozenset[str]
    next_due: float | None
    """Unix seconds; None when nothing waits for its time."""
    cursor: int
    named: Mapping[str, int]
    """The cursors, of all other names and of those with their own, as they are now."""
    all_looked_through: bool
    """Whether everything that may be taken was taken."""


def load(connection: sqlite3.Connection, now: float) -> Stored:
    """What is there; forgets the dedupe keys that have expired."""
    connection.execute("DELETE FROM definable_event_key WHERE expires_at <= ?", (now,))
    last, count = connection.execute("SELECT coalesce(max(position), 0), count(*) FROM definable_event").fetchone()
    keys = connection.execute("SELECT key, expires_at FROM definable_event_key ORDER BY expires_at").fetchall()
    earlier = [key for key, _ in keys if not is_digest(key)]
    if earlier:  # of a version that stored keys as they were
        update = "UPDATE OR REPLACE definable_event_key SET key = ? WHERE key = ?"
        connection.executemany(update, [(digest(key), key) for key in earlier])
        keys = [(key if is_digest(key) else digest(key), expires_at) for key, expires_at in keys]
    return Stored(last, count, _next_due(connection), keys)


def carry_out(connection: sqlite3.Connection, batch: Batch, order: Order) -> Receipt:
    """Do all of it: write down, settle, let in what is due, take from the front."""
    _write_down(connection, batch)
    _settle(connection, batch)
    replayed = frozenset(letter for letter, position in batch.replays.items() if _replay(connection, letter, position))
    due = 0 if order.due_position is None else _let_in_due(connection, order.now, order.due_position)
    found = (
        _find(connection, order)
        if order.demand
        else Found((), order.cursor, own_cursors(order), all_looked_through=False)
    )
    taken, unread = _take(connection, found.rows, order) if found.rows else ((), 0)
    joined = batch.publications + len(replayed) + due - unread
    return Receipt(taken, joined, replayed, _next_due(connection), *found[1:])


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
        [*map(storable, names), *map(storable, names), limit],
    )
    found: list[WaitingRun] = []
    scanned = 0
    for (data,) in rows:
        scanned += len(data)
        if scanned > MAX_SCANNED:
            break
        run = WaitingRun.of(_readable(data))
        if run is not None:
            found.append(run)
    return found


def storable(text: str) -> str:
    """Text as SQLite keeps it: in half of a surrogate pair, which UTF-8 lacks, its escape."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _write_down(connection: sqlite3.Connection, batch: Batch) -> None:
    insert = "INSERT INTO definable_event (position, id, name, attempt, data) VALUES (?, ?, ?, 0, ?)"
    for rows in (batch.unawaited, batch.awaited):
        if rows:
            connection.executemany(insert, rows)
    for key in batch.forgotten:
        connection.execute("DELETE FROM definable_event_key WHERE key = ?", (key,))
    for key, expires_at in batch.keys.items():
        connection.execute("INSERT OR REPLACE INTO definable_event_key VALUES (?, ?)", (key, expires_at))


def _settle(connection: sqlite3.Connection, batch: Batch) -> None:
    if batch.later:
        copy = """INSERT INTO definable_event_later (due_at, id, name, attempt, data)
            SELECT ?, id, name, attempt, data FROM definable_event WHERE position = ?"""
        connection.executemany(copy, batch.later)
    if batch.dead:
        _bury(connection, batch.dead)
    gone = [*batch.acked, *[row[-1:] for row in batch.later]]
    if gone:
        connection.executemany("DELETE FROM definable_event WHERE position = ?", gone)
    if batch.untaken:
        connection.executemany("UPDATE definable_event SET attempt = attempt - 1 WHERE position = ?", batch.untaken)


def _bury(connection: sqlite3.Connection, dead: Sequence[tuple[str, float, int]]) -> None:
    copy = """INSERT INTO definable_event_dead (why, died_at, id, name, attempt, data)
        SELECT ?, ?, id, name, attempt, data FROM definable_event WHERE position = ?"""
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


def _let_in_due(connection: sqlite3.Connection, now: float, position: int) -> int:
    due = connection.execute(
        "SELECT number FROM definable_event_later WHERE due_at <= ? ORDER BY due_at, number LIMIT ?",
        (now, MOVED_AT_ONCE),
    ).fetchall()
    connection.executemany(
        """INSERT INTO definable_event (position, id, name, attempt, data)
        SELECT ?, id, name, attempt, data FROM definable_event_later WHERE number = ?""",
        [(position + index, number) for index, (number,) in enumerate(due)],
    )
    connection.executemany("DELETE FROM definable_event_later WHERE number = ?", due)
    return len(due)


class Found(NamedTuple):
    """The rows that are next, and the cursors once they are taken."""

    rows: Sequence[tuple[int, str, str, int, bytes]]
    cursor: int
    named: Mapping[str, int]
    all_looked_through: bool
    """Whether nothing more may be taken."""


def own_cursors(order: Order) -> dict[str, int]:
    """The cursors of the names that have their own."""
    return {name: cursor for name, (cursor, _) in order.named.items()}


def _find(connection: sqlite3.Connection, order: Order) -> Found:
    """The first rows behind the cursors, those of names with a cursor of their own first.

    A cursor behind which too few were found goes to the end, so that no row is looked through again and again.
    """
    rows: list[tuple[int, str, str, int, bytes]] = []
    cursors = own_cursors(order)
    for name, (cursor, granted) in order.named.items():
        wanted = min(granted, order.demand - len(rows))
        if wanted:
            found = connection.execute(
                f"{NEXT} AND name = ? ORDER BY position LIMIT ?", (cursor, name, wanted)
            ).fetchall()
            cursors[name] = found[-1][0] if len(found) == wanted else order.last_position
            rows += found
    wanted = order.demand - len(rows)
    if not wanted:
        return Found(rows, order.cursor, cursors, all_looked_through=False)
    others = connection.execute(
        f"{NEXT} AND name NOT IN ({', '.join('?' * len(cursors))}) ORDER BY position LIMIT ?",
        (order.cursor, *cursors, wanted),
    ).fetchall()
    is_all = len(others) < wanted
    cursor = others[-1][0] if others else order.cursor
    return Found([*rows, *others], order.last_position if is_all and cursors else cursor, cursors, is_all)


def _take(
    connection: sqlite3.Connection, rows: Sequence[tuple[int, str, str, int, bytes]], order: Order
) -> tuple[Sequence[Taken], int]:
    """Count the attempts; returns how many could not be read too: these are dead, lest they hold up all others."""
    count = "UPDATE definable_event SET attempt = attempt + 1 WHERE position"
    if order.named:
        connection.executemany(f"{count} = ?", [row[:1] for row in rows])
    else:  # every position between them was free or is among them
        connection.execute(f"{count} > ? AND position <= ?", (order.cursor, rows[-1][0]))
    taken: list[Taken] = []
    unread: list[tuple[str, float, int]] = []
    for position, id, name, attempt, data in rows:
        try:
            taken.append(Taken(position, id, name, attempt, decode_data(data)))
        except StorageError as error:
            logger.error("the event %s is dead: %s", id, error)
            unread.append((storable(str(error)), order.now, position))
    if unread:
        _bury(connection, unread)
    return taken, len(unread)


def _readable(data: bytes) -> dict[str, Any]:
    try:
        return decode_data(data)
    except StorageError:  # why it died says so
        return {}


def _next_due(connection: sqlite3.Connection) -> float | None:
    due_at: float | None = connection.execute("SELECT min(due_at) FROM definable_event_later").fetchone()[0]
    return due_at
