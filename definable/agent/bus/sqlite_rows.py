"""The tables of the SQLite bus, and the statements that more than one part of it makes."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeAlias

from definable.errors import StorageError

from .base import MAX_SCANNED, Backlog, DeadLetter, WaitingRun
from .batch import Handle, Publication, decode_data

MAX_DEAD_LETTERS = 10_000
"""Of the deliveries that died, so many of the last ones are kept."""

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

INDEX_BY_KEY = """CREATE INDEX IF NOT EXISTS definable_event_later_by_key ON definable_event_later (key)
WHERE key IS NOT NULL"""
"""Made once the columns that older files lack are there."""

Row: TypeAlias = tuple[int, str, str, int, bytes, int]
"""Position, id, name, earlier attempts, data, earlier claims of which nothing came: attempts too."""


def next_rows(connection: sqlite3.Connection, cursor: int, count: int, condition: str, *names: str) -> list[Row]:
    return connection.execute(
        f"""SELECT position, id, name, attempt, data, claims FROM definable_event
        WHERE position > ? {condition} ORDER BY position LIMIT ?""",
        (cursor, *names, count),
    ).fetchall()


def dead_letter(connection: sqlite3.Connection, dead: Sequence[tuple[str, float, int, Handle]]) -> None:
    """Make dead letters of rows: why, when (Unix seconds), attempts, position."""
    copy = """INSERT INTO definable_event_dead (why, died_at, attempt, id, name, data)
        SELECT ?, ?, ?, id, name, data FROM definable_event WHERE position = ?"""
    connection.executemany(copy, dead)
    connection.executemany("DELETE FROM definable_event WHERE position = ?", [row[-1:] for row in dead])
    connection.execute(
        "DELETE FROM definable_event_dead WHERE number <= (SELECT max(number) FROM definable_event_dead) - ?",
        (MAX_DEAD_LETTERS,),
    )


def replay(connection: sqlite3.Connection, letter_id: str, position: int) -> bool:
    copied = connection.execute(
        """INSERT INTO definable_event (position, id, name, attempt, data)
        SELECT ?, id, name, 0, data FROM definable_event_dead WHERE id = ?""",
        (position, letter_id),
    )
    connection.execute("DELETE FROM definable_event_dead WHERE id = ?", (letter_id,))
    return copied.rowcount > 0


def cancel(connection: sqlite3.Connection, key: str) -> bool:
    return connection.execute("DELETE FROM definable_event_later WHERE key = ?", (key,)).rowcount > 0


def replace_in_place(connection: sqlite3.Connection, new: Publication) -> bool:
    """Have a message take the place of the one that waits under its key; False when there is none."""
    update = "UPDATE definable_event_later SET id = ?, name = ?, data = ? WHERE key = ?"
    return connection.execute(update, (new.id, text(new.name), new.data, new.replaces)).rowcount > 0


def first_due(connection: sqlite3.Connection) -> float | None:
    due_at: float | None = connection.execute("SELECT min(due_at) FROM definable_event_later").fetchone()[0]
    return due_at


def text(text: str) -> str:
    """Text as SQLite keeps it: in half of a surrogate pair, which UTF-8 lacks, its escape."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def list_dead(connection: sqlite3.Connection) -> Sequence[DeadLetter]:
    """The dead letters, oldest first; of those that cannot be read, all but their data."""
    rows = connection.execute("SELECT id, name, data, attempt, why, died_at FROM definable_event_dead ORDER BY number")
    return [DeadLetter(id, name, _readable(data), attempt, why, at) for id, name, data, attempt, why, at in rows]


def measure_backlog(connection: sqlite3.Connection, held: Collection[Handle]) -> Backlog:
    """What waits, but for what is held."""
    [(count,)] = connection.execute("SELECT count(*) FROM definable_event")
    rows = connection.execute(
        "SELECT position, data FROM definable_event ORDER BY position LIMIT ?", (len(held) + 1,)
    ).fetchall()
    first = next((data for position, data in rows if position not in held), None)
    return Backlog.of(max(count - len(held), 0), [] if first is None else [_readable(first)])


def list_waiting_runs(connection: sqlite3.Connection, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
    """The promised runs of deliveries that are not settled, oldest first."""
    marks = ", ".join("?" * len(names))
    rows = connection.execute(
        f"""SELECT data FROM (
            SELECT 0 AS later, position AS number, data FROM definable_event WHERE name IN ({marks})
            UNION ALL SELECT 1, number, data FROM definable_event_later WHERE name IN ({marks})
        ) ORDER BY later, number LIMIT ?""",
        [*map(text, names), *map(text, names), limit],
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
