"""What `redis.lua` is asked, and what it answers: the one script of the Redis bus, in terms of Python values.

`RedisStore` (`redis.py`) writes with it and `RedisConsumer` (`redis_claims.py`) claims with it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from importlib.resources import files
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from definable.storage.redis_address import anything, data, integer, items, list_of, nothing, stream_entry

from .batch import Handle, WriteBatch

if TYPE_CHECKING:
    from definable.storage.redis_link import RedisLink, Script

Answer = TypeVar("Answer")

PAGE = 100
"""Entries of the stream that are read at once."""


def bus_script() -> Script[Any]:
    """The script, for the connection that calls it."""
    from definable.storage.redis_link import Script  # loads coredis

    return Script[Any](files("definable.agent.bus").joinpath("redis.lua").read_text("utf-8"), anything)


class BusScript:
    """The functions of `redis.lua`, for one opening of a bus.

    Args:
        link: The connection.
        script: `bus_script()`, which the connection knows.
        prefix: What every key begins with, in braces: a cluster keeps all keys on one node.
        opening: The name of this consumer in Redis.
        lease: Seconds.
    """

    def __init__(self, link: RedisLink, script: Script[Any], *, prefix: str, opening: str, lease: float) -> None:
        self.stream: str = f"{prefix}:line"
        self._link = link
        self._script = script
        self._first_args = (prefix, opening, milliseconds(lease))

    async def call(
        self, function: str, *args: Any, keys: Sequence[Any] = (), read: Callable[[Any], Answer] = anything
    ) -> Answer:
        """A function's answer, once.

        Raises:
            RedisAway: There was none; it may have run.
            StorageError: Redis has refused.
        """
        words = (self._script.digest, len(keys) + 1, self.stream, *keys, function, *self._first_args, *args)
        return await self._link.call(b"EVALSHA", *words, read=read)

    async def insist(
        self, function: str, *args: Any, keys: Sequence[Any] = (), read: Callable[[Any], Answer] = anything
    ) -> Answer:
        """A function's answer, waiting for a Redis that is away; for those that may run twice."""
        script = type(self._script)(self._script.source, read)
        return await self._link.insist(script, [self.stream, *keys], [function, *self._first_args, *args])

    async def prepare(self) -> None:
        """Make in Redis what is missing there."""
        await self.insist("open", read=nothing)

    async def waiting(self, names: Collection[str], limit: int) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """Name and data of what waits or is claimed, oldest first, then of what waits in lists or for its time."""
        for stream in (self.stream, f"{self._first_args[0]}:limited"):
            after = b"-"
            while True:
                words = (stream, after, b"+", b"COUNT", PAGE)
                entries = await self._link.call(b"XRANGE", *words, read=list_of(stream_entry))
                for _, flat in entries:
                    fields = dict(zip(flat[::2], flat[1::2], strict=True))
                    yield fields.get(b"n", b""), fields.get(b"d", b"")
                if len(entries) < PAGE:
                    break
                after = b"(" + entries[-1][0]
        stored = map(storable, names)
        for name, body in await self.call("list_waiting", limit, len(names), *stored, read=list_of(name_and_data)):
            yield name, body


def slot_args(slots: Mapping[Handle, str]) -> list[Any]:
    """Slots of limited names, by what holds each."""
    args: list[Any] = [len(slots)]
    for handle, name in slots.items():
        args += (storable(name), handle)
    return args


def batch_args(batch: WriteBatch, unclaimed: Sequence[tuple[bytes, str]], first_key: int) -> list[Any]:
    """The arguments of a batch for `apply`; its dedupe keys are those from `first_key` on (Lua counts from 1)."""
    now = anyio.current_time()
    args: list[Any] = [len(batch.publications)]
    for each in batch.publications:
        args += (each.id, storable(each.name), each.data)
        if each.key is None:
            args += (0, 0)
        else:
            args += (first_key, milliseconds(each.key_ttl))
            first_key += 1
        args += (milliseconds(max(each.due_at - now, 0)), each.replaces or "", int(each.keeps_time), each.group or "")
    lists: tuple[Sequence[Any], ...] = (
        batch.acked,
        [*batch.parked],
        [*batch.begun],
        [(handle, milliseconds(max(due_at - now, 0)), attempts) for handle, due_at, attempts in batch.nacked],
        [(handle, storable(why), attempts) for handle, why, attempts in batch.dead],
        [(handle, -1 if due_at < 0 else milliseconds(max(due_at - now, 0))) for handle, due_at in batch.released],
        [(number, value) for number, (_, value) in enumerate(unclaimed, first_key)],
        [*batch.cancelled],
        [*batch.replayed],
    )
    for entries in lists:
        args.append(len(entries))
        for entry in entries:
            if isinstance(entry, tuple):
                args += cast("tuple[Any, ...]", entry)
            else:
                args.append(entry)
    return args


def milliseconds(seconds: float) -> int:
    """Rounded up: neither a delay nor a time to live may end too soon."""
    return ceil(seconds * 1000)


def due_time(milliseconds: int) -> float | None:
    """When something is due, in seconds of the event loop's clock, given how far off that is; None when negative."""
    return None if milliseconds < 0 else anyio.current_time() + milliseconds / 1000


def storable(text: str) -> bytes:
    """Text as bytes; half of a surrogate pair, which UTF-8 proper cannot hold, is passed through."""
    return text.encode("utf-8", "surrogatepass")


def readable(text: bytes) -> str:
    """The text of `storable`'s bytes."""
    return text.decode("utf-8", "surrogatepass")


def claimed_entry(answer: Any) -> tuple[bytes, list[bytes], int, int]:
    handle, fields, claims, extra = items(answer, 4)
    return (*stream_entry([handle, fields]), integer(claims), integer(extra))


def applied_answer(answer: Any) -> tuple[Any, ...]:
    """What `apply` answers."""
    made, repeated, due, last, claimed, empty, cancelled, replayed, blocked = items(answer, 9)
    lists = [list_of(data)(each) for each in (repeated, empty, cancelled, replayed, blocked)]
    return (integer(made), lists[0], integer(due), data(last), list_of(claimed_entry)(claimed), *lists[1:])


def swept_answer(answer: Any) -> tuple[bytes, list[tuple[bytes, list[bytes], int, int]], int, list[bytes]]:
    """What `sweep` answers."""
    cursor, swept, due, parked = items(answer, 4)
    return data(cursor), list_of(claimed_entry)(swept), integer(due), list_of(data)(parked)


def passed_answer(answer: Any) -> tuple[bool, bool, list[bytes]]:
    """What `passed` answers."""
    passed, held, parked = items(answer, 3)
    return bool(integer(passed)), bool(integer(held)), list_of(data)(parked)


def letter(answer: Any) -> tuple[bytes, bytes, bytes, int, bytes, int]:
    """A dead letter."""
    id, name, body, attempt, why, at = items(answer, 6)
    return data(id), data(name), data(body), integer(attempt), data(why), integer(at)


def name_and_data(answer: Any) -> tuple[bytes, bytes]:
    """A delivery."""
    name, body = items(answer, 2)
    return data(name), data(body)


def backlog_answer(answer: Any) -> tuple[int, list[bytes]]:
    """What `backlog` answers."""
    waiting, bodies = items(answer, 2)
    return integer(waiting), list_of(data)(bodies)


READERS: Sequence[Callable[[Any], object]] = (
    applied_answer,
    swept_answer,
    passed_answer,
    letter,
    name_and_data,
    backlog_answer,
)
"""Each raises `ValueError` at an answer that is not of its shape."""
