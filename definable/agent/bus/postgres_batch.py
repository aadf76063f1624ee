"""One batch of the PostgreSQL bus as one transaction: what is to be written, then what is claimed."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from definable.concurrency.logs import logger_named
from definable.errors import StorageError

from . import postgres_rows as sql
from .batch import Applied, Claim, Handle, Message, WriteBatch, decode_data, last_under_keys

if TYPE_CHECKING:
    from psycopg import Connection

logger: logging.Logger = logger_named(__name__)

AHEAD = 4
"""Candidates for each message that is asked for: some are being claimed by other replicas."""

LOCK = {"lock": sql.GROUPS_LOCK, "kinds": sql.KINDS_OF_GROUPS}


class MadeBefore(Exception):
    """The batch was written, and its answer got lost.

    Args:
        outcome: What came of it.
    """

    def __init__(self, outcome: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.outcome: Mapping[str, Sequence[str]] = outcome


class BatchTransaction:
    """What one flush does, taken out of the batch on the event loop's thread, and done in another.

    Args:
        service: Whose messages they are.
        opening: The name of this consumer in the database.
        lease: Seconds.
        batch: What to write.
        claim: What to claim.
        held: What is claimed and not settled.
        released: Dedupe keys to forget, with the claims that they must have; empty for any.
        names: Names of which messages waited the last time.
        frees: Whether slots of limited names come free, for which other processes may wait.
    """

    def __init__(
        self,
        service: str,
        opening: str,
        lease: float,
        batch: WriteBatch,
        claim: Claim,
        held: Sequence[Handle],
        released: Sequence[tuple[str, str]],
        names: Sequence[bytes],
        *,
        frees: bool,
    ) -> None:
        now = anyio.current_time()
        self.last_position: int = 0
        """The last that was published."""
        self.names: Sequence[bytes] = names
        self.is_lost: bool = False
        """Whether the lease was lost: others have what was held."""
        self._service, self._opening, self._lease = service, opening, lease
        self._number, self._held, self._released = batch.number, held, released
        self._demand, self._grants, self._known = claim.demand, dict(claim.grants), claim.known
        self._limits, self._frees = dict(claim.limits), frees
        self._new = [
            _New(each.id, each.key, each.key_ttl, storable(each.name), each.data, max(each.due_at - now, 0.0),
                 None if each.replaces is None else storable(each.replaces), each.keeps_time, each.group)
            for each in last_under_keys(batch.publications)
        ]  # fmt: skip
        self._acked = [*batch.acked]
        self._nacked = [(handle, max(due_at - now, 0.0), attempts) for handle, due_at, attempts in batch.nacked]
        self._dead = [(handle, storable(why), attempts) for handle, why, attempts in batch.dead]
        self._given_back = [
            (handle, max(due_at - now, 0.0) if due_at > 0 else 0.0) for handle, due_at in batch.released
        ]
        self._parked, self._begun = [*batch.parked], [*batch.begun]
        self._groups = batch.groups | {each.group for each in batch.publications if each.group is not None}
        self._cancelled, self._replayed = [*batch.cancelled], [*batch.replayed]
        self._repeated: Sequence[str] = ()

    def make(self, connection: Connection[tuple[Any, ...]]) -> Applied:
        """Write and claim; the time when the next message is due is in seconds from now."""
        if self._replayed:
            groups = connection.execute(sql.DEAD_GROUPS, (self._service, self._replayed))
            self._groups = {*self._groups, *(group for (group,) in groups)}
        changed: dict[str, Any] = {**LOCK, "service": self._service, "groups": [*self._groups]}
        if self._groups:
            connection.execute(sql.LOCK_GROUPS, changed)
        opening = connection.execute(sql.BEGIN_BATCH, (self._opening,))
        self._settle(connection)
        cancelled, published = self._cancel(connection), self._publish(connection)
        replayed = connection.execute(sql.REPLAY, (self._service, self._replayed)) if self._replayed else ()
        if self._groups:
            connection.execute(sql.FIND_FIRST, changed)
        claims = self._claim(connection) if self._demand else None
        # What follows asks for rows of what is above: only now is it sent, in one round trip.
        if (row := opening.fetchone()) is None:
            self.is_lost = True
            connection.execute(sql.REGISTER, (self._opening, self._service, self._lease))
        elif row[0] >= self._number:
            raise MadeBefore(json.loads(row[1]))
        outcome = {
            "cancelled": [*{readable(key) for (key,) in cancelled}],
            "repeated": self._repeated,
            "replayed": [id for (id,) in replayed],
        }
        self.last_position = max((position for (position,) in published), default=0)
        connection.execute(sql.END_BATCH, (self._number, json.dumps(outcome), self._lease, self._opening))
        if self._given_back or self._groups or self._frees or replayed or any(not each.delay for each in self._new):
            connection.execute(sql.NOTIFY, (f"{self._service} {self._opening}",))
        claimed, has_more, next_due = ((), True, None) if claims is None else self._claimed(connection, claims)
        return Applied(claimed, has_more, next_due, **outcome)

    def claimed_before(self, connection: Connection[tuple[Any, ...]], outcome: Mapping[str, Sequence[str]]) -> Applied:
        """What came of a batch that was written, and whose answer got lost."""
        rows = connection.execute(sql.OWNED, (self._opening, self._held)).fetchall()
        return Applied(self._messages(connection, rows), True, None, **outcome)

    # --- write

    def _settle(self, connection: Connection[tuple[Any, ...]]) -> None:
        owner = self._opening
        for change, handles in ((-1, self._parked), (1, self._begun)):
            if handles:
                connection.execute(sql.COUNT_CLAIMS, (change, handles, owner))
        if self._acked:
            connection.execute(sql.ACK, (self._acked, owner))
        if self._nacked:
            connection.execute(sql.NACK, (*_columns(self._nacked), owner))
        if self._given_back:
            connection.execute(sql.RELEASE, (*_columns(self._given_back), owner))
        if self._dead:
            self._dead_letter(connection, self._dead)

    def _dead_letter(self, connection: Connection[tuple[Any, ...]], dead: Sequence[tuple[Handle, bytes, int]]) -> None:
        connection.execute(sql.DEAD_LETTER, (*_columns(dead), self._opening))
        connection.execute(sql.FORGET_DEAD, {"service": self._service, "kept": sql.MAX_DEAD_LETTERS})

    def _cancel(self, connection: Connection[tuple[Any, ...]]) -> Iterable[tuple[bytes]]:
        if not self._cancelled:
            return ()
        args = (self._service, [*map(storable, self._cancelled)])
        return connection.execute(f"{sql.REPLACE} RETURNING key", args)  # type: ignore[arg-type]

    def _publish(self, connection: Connection[tuple[Any, ...]]) -> Iterable[tuple[int]]:
        """Write what is new and no repeat; returns its positions."""
        if self._released:
            connection.execute(sql.RELEASE_KEYS, (*_columns(self._released), self._service))
        new = self._without_repeats(connection)
        keys = [each.replaces for each in new if each.replaces is not None]
        if keys:  # two replicas that replace nothing would not see each other's
            connection.execute(sql.LOCK_KEYS, (self._service, keys))
        replaced = [each.replaces for each in new if each.replaces is not None and not each.keeps_time]
        if replaced:
            connection.execute(sql.REPLACE, (self._service, replaced))
        published: list[Iterable[tuple[int]]] = []
        for keeps_time, publish in ((False, sql.PUBLISH), (True, sql.PUBLISH_KEEPING_TIME)):
            if some := [each for each in new if each.keeps_time is keeps_time]:
                columns = dict(zip(_New._fields, _columns(some), strict=True))
                args = {"service": self._service, **columns}
                published.append(connection.execute(publish, args))  # type: ignore[arg-type]
        return chain.from_iterable(published)

    def _without_repeats(self, connection: Connection[tuple[Any, ...]]) -> list[_New]:
        first: dict[str, _New] = {}
        for each in self._new:
            if each.digest is not None:
                first.setdefault(each.digest, each)
        if not first:
            return self._new
        args = {"service": self._service, "digests": [*first], "ttls": [each.ttl for each in first.values()]}
        taken = {digest for (digest,) in connection.execute(sql.TAKE_KEYS, args)}
        new = [
            each for each in self._new if each.digest is None or (each.digest in taken and first[each.digest] is each)
        ]
        self._repeated = [each.id for each in self._new if each not in new]
        return new

    # --- claim

    def _claim(self, connection: Connection[tuple[Any, ...]]) -> _Claims:
        """Ask for what waits, of names that waited the last time, and for the names that wait now."""
        wanted, left = dict[bytes, int](), self._demand
        for name in self.names:
            text = readable(name)
            if (self._known is None or text in self._known) and self._grants.get(text, 1) >= 1:
                wanted[name] = int(min(left * AHEAD, self._grants.get(text, math.inf)))
        args: dict[str, Any] = {
            "service": self._service,
            "opening": self._opening,
            "names": [*wanted],
            "counts": [*wanted.values()],
            "sizes": [None if (limit := self._limits.get(readable(name))) is None else limit.size for name in wanted],
            "skipped": [name for name in wanted if (limit := self._limits.get(readable(name))) and limit.skip],
            "demand": left,
        }
        if any(size is not None for size in args["sizes"]):
            connection.execute(sql.LOCK_LIMITS, args)
        return _Claims(
            connection.execute(sql.CLAIM, args) if wanted else (),
            connection.execute(sql.CLAIM_SURPLUS, args) if args["skipped"] else (),
            connection.execute(sql.NEXT_DUE, args) if wanted else ((None,),),
            connection.execute(sql.WAITING_NAMES, args),
        )

    def _claimed(
        self, connection: Connection[tuple[Any, ...]], claims: _Claims
    ) -> tuple[Sequence[Message], bool, float | None]:
        """What was claimed, whether there is more, and in how many seconds the next is due."""
        rows = sorted([*claims.rows, *claims.surplus], key=lambda row: (row[6], row[0]))
        [(due,)] = claims.next_due
        names = [name for (name,) in claims.names]
        is_known = {*names} <= {*self.names}
        self.names = names
        if not is_known and not rows:
            return self._claimed(connection, self._claim(connection))
        has_more = not is_known or (due is not None and due <= 0)
        return self._messages(connection, rows), has_more, None if has_more else due

    def _messages(self, connection: Connection[tuple[Any, ...]], rows: Sequence[tuple[Any, ...]]) -> Sequence[Message]:
        messages: list[Message] = []
        unread: list[tuple[Handle, bytes, int]] = []
        for position, id, name, data, attempt, claims, _, group, is_surplus in rows:
            try:
                attempts, decoded = attempt + claims - 1, decode_data(data)
                messages.append(Message(position, id, readable(name), decoded, attempts, claims, is_surplus, group))
            except StorageError as error:
                logger.error("the event %s is a dead letter: %s", id, error)
                unread.append((position, storable(str(error)), attempt + claims))
        if unread:
            changed: dict[str, Any] = {**LOCK, "service": self._service}
            changed["groups"] = [row[7] for row in rows if row[7] is not None]
            connection.execute(sql.LOCK_GROUPS, changed)
            self._dead_letter(connection, unread)
            connection.execute(sql.FIND_FIRST, changed)
        return messages


class _Claims(NamedTuple):
    """What was asked for, and not read yet."""

    rows: Iterable[tuple[Any, ...]]
    surplus: Iterable[tuple[Any, ...]]
    next_due: Iterable[tuple[float | None]]
    names: Iterable[tuple[bytes]]


class _New(NamedTuple):
    """A publication."""

    id: str
    digest: str | None
    ttl: float
    name: bytes
    data: bytes
    delay: float
    replaces: bytes | None
    keeps_time: bool
    group: str | None


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def storable(text: str) -> bytes:
    """Text as bytes; half of a surrogate pair, which UTF-8 proper cannot hold, is passed through."""
    return text.encode("utf-8", "surrogatepass")


def readable(text: bytes) -> str:
    """The text of `storable`'s bytes."""
    return text.decode("utf-8", "surrogatepass")
