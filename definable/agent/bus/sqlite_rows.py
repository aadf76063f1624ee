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
        claims INTEGER NOT NULL DEFAULT 0,
        grp TEXT
    )""",
    """CREATE TABLE IF NOT EXISTS definable_event_later (
        number INTEGER PRIMARY KEY,
        due_at REAL NOT NULL,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        data BLOB NOT NULL,
        claims INTEGER NOT NULL DEFAULT 0,
        key TEXT,
        grp TEXT
    )""",
    # What waits behind the first one of its group, which is in the queue or has a time, is due never.
    "CREATE INDEX IF NOT EXISTS definable_event_later_by_time ON definable_event_later (due_at)",
    """CREATE TABLE IF NOT EXISTS definable_event_dead (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        data BLOB NOT NULL,
        why TEXT NOT NULL,
        died_at REAL NOT NULL,
        grp TEXT
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
    ("definable_event", "grp", "TEXT"),
    ("definable_event_later", "grp", "TEXT"),
    ("definable_event_dead", "grp", "TEXT"),
)
"""Columns that files of 0.2 and before lack: added when such a file is opened."""

INDEXES = (
    "CREATE INDEX IF NOT EXISTS definable_event_later_by_key ON definable_event_later (key) WHERE key IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS definable_event_by_group ON definable_event (grp) WHERE grp IS NOT NULL",
    """CREATE INDEX IF NOT EXISTS definable_event_later_by_group ON definable_event_later (grp, number)
    WHERE grp IS NOT NULL""",
)
"""Of columns that may have to be added first."""

NEVER = "9e999"
"""Infinity, as SQLite writes it."""

LONG_AGO = "1"
"""A time that has come."""

Row: TypeAlias = tuple[int, str, str, int, bytes, int, str | None]
"""Position, id, name, earlier attempts, data, earlier claims of which nothing came (attempts too), group."""


def add_columns(connection: sqlite3.Connection) -> None:
    """Bring the tables of an earlier version up to this one."""
    for table, column, kind in ADDED_COLUMNS:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if column not in columns:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    for statement in INDEXES:
        connection.execute(statement)


COLUMNS = "position, id, name, attempt, data, claims, grp"
"""Of a `Row`."""


def next_rows(connection: sqlite3.Connection, cursor: int, count: int, condition: str, *names: str) -> list[Row]:
    return connection.execute(
        f"""SELECT {COLUMNS} FROM definable_event
        WHERE position > ? {condition} ORDER BY position LIMIT ?""",
        (cursor, *names, count),
    ).fetchall()


def row_at(connection: sqlite3.Connection, position: Handle) -> Row | None:
    found: Row | None = connection.execute(
        f"SELECT {COLUMNS} FROM definable_event WHERE position = ?", (position,)
    ).fetchone()
    return found


def dead_letter(connection: sqlite3.Connection, dead: Sequence[tuple[str, float, int, Handle]]) -> None:
    """Make dead letters of rows: why, when (Unix seconds), attempts, position."""
    copy = """INSERT INTO definable_event_dead (why, died_at, attempt, id, name, data, grp)
        SELECT ?, ?, ?, id, name, data, grp FROM definable_event WHERE position = ?"""
    connection.executemany(copy, dead)
    end(connection, [row[-1:] for row in dead])
    connection.execute(
        "DELETE FROM definable_event_dead WHERE number <= (SELECT max(number) FROM definable_event_dead) - ?",
        (MAX_DEAD_LETTERS,),
    )


def dead_letter_behind(connection: sqlite3.Connection, name: str, why: str, now: float) -> int:
    """Make dead letters of all that waits in groups of a name: it has no handler; returns how many they are."""
    of_name = "FROM definable_event_later WHERE name = ? AND grp IS NOT NULL"
    copy = f"""INSERT INTO definable_event_dead (why, died_at, attempt, id, name, data, grp)
        SELECT ?, ?, attempt, id, name, data, grp {of_name} ORDER BY number"""
    connection.execute(copy, (why, now, name))
    return connection.execute(f"DELETE {of_name}", (name,)).rowcount


def begin_groups(connection: sqlite3.Connection) -> None:
    """Have the next message of a group come due of which somebody has removed the first."""
    if connection.execute(f"SELECT 1 FROM definable_event_later WHERE due_at = {NEVER} LIMIT 1").fetchone():
        connection.execute(
            f"""UPDATE definable_event_later SET due_at = {LONG_AGO} WHERE number IN (
                SELECT min(number) FROM definable_event_later AS behind WHERE grp IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM definable_event WHERE grp = behind.grp)
                GROUP BY grp HAVING min(due_at) = {NEVER})"""
        )


def end(connection: sqlite3.Connection, rows: Sequence[tuple[Handle]]) -> None:
    """Remove rows that have come to their end, given their positions; the next of their groups come due."""
    groups: list[tuple[str]] = []
    if connection.execute(f"SELECT 1 FROM definable_event_later WHERE due_at = {NEVER} LIMIT 1").fetchone():
        of_row = "SELECT grp FROM definable_event WHERE position = ? AND grp IS NOT NULL"
        groups = [group for row in rows for group in connection.execute(of_row, row)]
    connection.executemany("DELETE FROM definable_event WHERE position = ?", rows)
    come_due = f"""UPDATE definable_event_later SET due_at = {LONG_AGO} WHERE number = (
        SELECT number FROM definable_event_later WHERE grp = ? AND due_at = {NEVER} ORDER BY number LIMIT 1)"""
    connection.executemany(come_due, groups)


def is_busy(connection: sqlite3.Connection, group: str) -> bool:
    """Whether something of a group is to be handled before what is new."""
    tables = ("definable_event", "definable_event_later")
    exists = " OR ".join(f"EXISTS (SELECT 1 FROM {table} WHERE grp = :group)" for table in tables)
    return bool(connection.execute(f"SELECT {exists}", {"group": group}).fetchone()[0])


def replay(connection: sqlite3.Connection, letter_id: str) -> bool:
    """Have a dead letter come due, or wait behind the others of its group; False when there is none of that id."""
    found = connection.execute("SELECT grp FROM definable_event_dead WHERE id = ?", (letter_id,)).fetchone()
    if found is None:
        return False
    due_at = NEVER if found[0] is not None and is_busy(connection, found[0]) else LONG_AGO
    connection.execute(
        f"""INSERT INTO definable_event_later (due_at, id, name, attempt, data, grp)
        SELECT {due_at}, id, name, 0, data, grp FROM definable_event_dead WHERE id = ?""",
        (letter_id,),
    )
    connection.execute("DELETE FROM definable_event_dead WHERE id = ?", (letter_id,))
    return True


def cancel(connection: sqlite3.Connection, key: str) -> bool:
    return connection.execute("DELETE FROM definable_event_later WHERE key = ?", (key,)).rowcount > 0


def replace_in_place(connection: sqlite3.Connection, new: Publication) -> bool:
    """Have a message take the place of the one that waits under its key; False when there is none."""
    update = "UPDATE definable_event_later SET id = ?, name = ?, data = ? WHERE key = ?"
    return connection.execute(update, (new.id, text(new.name), new.data, new.replaces)).rowcount > 0


def first_due(connection: sqlite3.Connection) -> float | None:
    first = connection.execute(f"SELECT min(due_at) FROM definable_event_later WHERE due_at < {NEVER}").fetchone()
    due_at: float | None = first[0]
    return due_at


def text(text: str) -> str:
    """Text as SQLite keeps it: in half of a surrogate pair, which UTF-8 lacks, its escape."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def list_dead(connection: sqlite3.Connection) -> Sequence[DeadLetter]:
    """The dead letters, oldest first; of those that cannot be read, all but their data."""
    columns = "id, name, data, attempt, why, died_at, grp"
    rows = connection.execute(f"SELECT {columns} FROM definable_event_dead ORDER BY number")
    return [DeadLetter(id, name, _readable(data), *others) for id, name, data, *others in rows]


def measure_backlog(connection: sqlite3.Connection, held: Collection[Handle]) -> Backlog:
    """What waits, but for what is held."""
    [(count,)] = connection.execute(
        f"""SELECT (SELECT count(*) FROM definable_event)
        + (SELECT count(*) FROM definable_event_later WHERE due_at = {NEVER})"""
    )
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
