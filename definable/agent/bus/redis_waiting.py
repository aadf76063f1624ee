"""The promised runs that a `RedisBus` still holds: what a service asks for when it starts again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing, suppress
from typing import Any

from definable.errors import StorageError
from definable.storage.redis_address import list_of, stream_entry
from definable.storage.redis_link import RedisLink

from .base import MAX_SCANNED, WaitingRun
from .codec import decode_data
from .redis_scripts import LIST_LATER
from .redis_turn import readable

PAGE = 100
"""Entries of the stream that are read at once."""


async def waiting_runs(
    commands: RedisLink, keys: Sequence[str], args: Sequence[Any], names: Collection[str], limit: int
) -> Sequence[WaitingRun]:
    """See `RemembersRuns.waiting_runs`; `keys` and `args` are those of the scripts."""
    found: list[WaitingRun] = []
    scanned = 0
    async with aclosing(_deliveries(commands, keys, args, limit)) as deliveries:
        async for name, data in deliveries:
            scanned += len(data)
            if scanned > MAX_SCANNED or len(found) == limit:
                break
            if readable(name) in names:
                with suppress(StorageError):  # whoever takes it finds out
                    if (run := WaitingRun.of(decode_data(data))) is not None:
                        found.append(run)
    return found


async def _deliveries(
    commands: RedisLink, keys: Sequence[str], args: Sequence[Any], limit: int
) -> AsyncGenerator[tuple[bytes, bytes], None]:
    """Name and data of what waits or is in hand, oldest first, then of what waits for its next attempt."""
    line, after = keys[0], b"-"
    while True:
        entries = await commands.call(b"XRANGE", line, after, b"+", b"COUNT", PAGE, read=list_of(stream_entry))
        for _, flat in entries:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            yield fields.get(b"n", b""), fields.get(b"d", b"")
        if len(entries) < PAGE:
            break
        after = b"(" + entries[-1][0]
    for name, data in await commands.script(LIST_LATER, keys, [*args, limit]):
        yield name, data
