"""What the SQLite bus has claimed of the rows that wait: cursors divide the queue."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

from definable.concurrency.logs import logger_named
from definable.errors import StorageError

from .batch import Claim, Handle, Message, decode_data
from .sqlite_rows import Row, dead_letter, dead_letter_behind, next_rows, row_at, text

logger: logging.Logger = logger_named(__name__)


class _Found(NamedTuple):
    rows: Sequence[Row]
    is_all: bool
    """Whether nothing more may be claimed."""


class Cursors:
    """Before them is what this opening has claimed, behind them what waits.

    A name of which so many may be claimed has a cursor of its own, and so has one without a handler here. Its methods
    run in a worker thread, within a transaction.

    Args:
        unknown_ttl: Seconds after which messages without a handler here are dead letters.
    """

    def __init__(self, unknown_ttl: float) -> None:
        self.last_position: int = 0
        """The last that was given away. They only grow, so that nothing new is before a cursor."""
        self.unclaimed: int = 0
        """Rows behind the cursors."""
        self.unknown_rows: int = 0
        self.is_all_claimed: bool = False
        """Whether nothing of what waits may be claimed."""
        self._given_back: Sequence[Handle] = ()
        """Before the cursors, and not begun: claimed before all else."""
        self._unknown_ttl = unknown_ttl
        self._cursor = 0
        self._cursors: dict[str, int] = {}
        """Of names with a cursor of their own."""
        self._unknown: dict[str, float] = {}
        """Since when (Unix seconds) there has been no handler for these names."""
        self._learned: Collection[str] | None = None
        self._known: Collection[str] | None = None
        """Those as they are stored."""

    def give_back(self, positions: Sequence[Handle]) -> None:
        """What was claimed and not begun may be claimed again."""
        if positions:
            self._given_back = (*self._given_back, *positions)
            self.unclaimed += len(positions)
            self.is_all_claimed = False

    def claim(self, connection: sqlite3.Connection, claim: Claim, now: float) -> Sequence[Message]:
        """Claim what is asked for."""
        before, is_divided = self._cursor, bool(self._cursors or self._given_back)
        self._cursors = dict(self._cursors)  # anew, so that what a failed transaction changed can be taken back
        found = self._find(connection, claim, now)
        self.is_all_claimed = found.is_all
        self.unclaimed -= len(found.rows)
        if not found.rows:
            return ()
        count = "UPDATE definable_event SET claims = claims + 1 WHERE position"
        if is_divided or self._cursors:
            connection.executemany(f"{count} = ?", [row[:1] for row in found.rows])
        else:  # every position between them is free or among them
            connection.execute(f"{count} > ? AND position <= ?", (before, self._cursor))
        claimed: list[Message] = []
        unread: list[tuple[str, float, int, Handle]] = []
        for position, id, name, attempts, data, claims, group in found.rows:
            try:
                decoded = decode_data(data)
                claimed.append(Message(position, id, name, decoded, attempts + claims, claims + 1, False, group))
            except StorageError as error:
                logger.error("the event %s is a dead letter: %s", id, error)
                unread.append((text(str(error)), now, attempts + claims + 1, position))
        if unread:
            dead_letter(connection, unread)
        return claimed

    def _find(self, connection: sqlite3.Connection, claim: Claim, now: float) -> _Found:
        """What was given back, then the first rows behind the cursors, those of names with a cursor of their own first.

        A cursor behind which too few were found goes to the end, so that no row is looked through again and again.
        """
        left = {text(name): granted for name, granted in claim.grants.items()} if claim.grants else {}
        rows = self._find_given_back(connection, claim.demand, left) if self._given_back else list[Row]()
        for name in [name for name in self._cursors if name not in self._unknown]:
            wanted = int(min(left.get(name, claim.demand), claim.demand - len(rows)))
            if wanted > 0:
                found = next_rows(connection, self._cursors[name], wanted, "AND name = ?", name)
                self._cursors[name] = found[-1][0] if len(found) == wanted else self.last_position
                left[name] = left.get(name, math.inf) - len(found)
                rows += found
        while wanted := claim.demand - len(rows):
            marks = ", ".join("?" * len(self._cursors))
            others = next_rows(connection, self._cursor, wanted, f"AND name NOT IN ({marks})", *self._cursors)
            rows += [row for row in others if self._may_claim(connection, row, left, now)]
            if len(others) < wanted:
                self._cursor = self.last_position
                for name in [name for name, cursor in self._cursors.items() if cursor == self.last_position]:
                    del self._cursors[name]  # nothing of it waits
                return _Found(rows, is_all=True)
        return _Found(rows, is_all=False)

    def _find_given_back(self, connection: sqlite3.Connection, demand: int, left: dict[str, float]) -> list[Row]:
        rows: list[Row] = []
        rest: list[Handle] = []
        for position in self._given_back:
            found = row_at(connection, position) if len(rows) < demand else None
            if found is None or left.get(found[2], 1) < 1:
                rest.append(position)
                continue
            if found[2] in left:
                left[found[2]] -= 1
            rows.append(found)
        self._given_back = rest
        return rows

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

    def learn_names(self, connection: sqlite3.Connection, known: Collection[str]) -> None:
        """Learn which names have a handler here."""
        if known is self._learned:
            return
        self._learned, self._known = known, frozenset(map(text, known))
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
        self.unknown_rows += count
        logger.warning(
            "no handler is registered for %r: %d deliveries wait for one, and are dead letters in %.1f h",
            name,
            count,
            max(since + self._unknown_ttl - now, 0) / 3600,
        )

    def next_expiry(self, connection: sqlite3.Connection, now: float) -> float | None:
        """Dead-letter what waited too long for a handler; returns when more has."""
        for name, since in [*self._unknown.items()]:
            if since + self._unknown_ttl <= now:
                self._unknown = {other: at for other, at in self._unknown.items() if other != name}
                why = f"no handler is registered for {name!r}"
                rows = connection.execute(
                    "SELECT position, attempt + claims FROM definable_event WHERE name = ?", (name,)
                )
                dead = [(text(why), now, attempt, position) for position, attempt in rows.fetchall()]
                dead_letter(connection, dead)
                behind = dead_letter_behind(connection, name, text(why), now)
                connection.execute("DELETE FROM definable_event_unknown WHERE name = ?", (name,))
                self.unclaimed -= len(dead)
                self.unknown_rows -= len(dead)
                logger.error("%s: %d deliveries are dead letters", why, len(dead) + behind)
        return min((since + self._unknown_ttl for since in self._unknown.values()), default=None)
