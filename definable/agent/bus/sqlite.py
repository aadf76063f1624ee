"""The event bus in an SQLite file: what it accepted outlives the process."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from definable.errors import ConfigurationError, EventBufferFull, EventBusClosed
from definable.storage import SQLiteFile, Synchronous

from .base import DEDUPE_TTL, DeadLetter, Delivery, EventBus, WaitingRun
from .dedupe import digest
from .event_json import encode_data
from .memory import DEFAULT_BUFFER
from .sqlite_delivery import SQLiteDeliveries
from .sqlite_line import SQLiteLine
from .sqlite_owner import owned
from .sqlite_tables import SCHEMA, list_dead, list_waiting_runs, load


class SQLiteBus(EventBus):
    """Keeps events in a file, embedded: no server, no dependency. For one process; the file refuses a second.

    - What `await publish` accepted survives the death of the process (`kill -9`) and is handed out after a restart, at
      least once, in its order. `publish_nowait` never blocks and is as safe a few milliseconds later: one writer
      commits whatever has come together since its last commit.
    - A delivery is handed out after the attempt was written down, so that one that takes the process along comes back
      as the next attempt. Delays of `nack` go on over a restart. An `ack` is written with the next commit; one that a
      crash loses means a repeat.
    - No more is read from the file than workers ask for, however long the line in it is.
    - `grant_name` has what is for one name left in the file until it is granted: of the messages that wait for a chat
      interface, those are taken that can be begun soon.
    - While the file fails (a full disk), `publish` raises, nothing is handed out, and what `publish_nowait` has
      accepted is kept and tried again; `failure` says why.
    - The last 10,000 dead letters are kept, and the last 100,000 dedupe keys.
    - A delivery names its trigger by the source and the handler's qualified name: when the handler was renamed since,
      it goes to the dead letters.

    Args:
        path: The file; it and its directory are made when they do not exist. A session store may share it.
        synchronous: `"FULL"` has the last commits survive a loss of power too, and makes them slower.
        buffer: How many publications may wait to be written; beyond it `publish_nowait` raises and `publish` waits.
        clock: Tells Unix seconds; read when the bus is opened.

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
    ) -> None:
        if buffer < 1:
            raise ConfigurationError(f"buffer={buffer!r}: at least 1")
        self._file = SQLiteFile(path, SCHEMA, synchronous=synchronous, pinned=True)
        self._buffer = buffer
        self._clock = clock
        self._is_open = False
        self._line: SQLiteLine | None = None

    def __repr__(self) -> str:
        return f"SQLiteBus({os.fspath(self._file.path)!r})"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """The bus works while the context is open; leaving it writes what is left, within a bound.

        Raises:
            ConfigurationError: This bus is open already.
            StorageError: The file cannot be opened, is damaged, or another `SQLiteBus` has it open.
        """
        if self._is_open:
            raise ConfigurationError("this SQLiteBus is open already: one agent that serves, one bus")
        self._is_open = True
        try:
            async with self._file.open(), owned(self._file.path):
                line = await self._load()
                async with anyio.create_task_group() as group:
                    group.start_soon(line.writer.run)  # `start`, cancelled, would wait for the end of what is shielded
                    try:
                        await line.writer.began.wait()
                        self._line = line
                        yield
                    finally:
                        self._line = None
                        line.close()
        finally:
            self._is_open = False

    async def _load(self) -> SQLiteLine:
        began = self._clock() - anyio.current_time()

        def now() -> float:
            return began + anyio.current_time()

        started = now()
        stored = await self._file.write(lambda connection: load(connection, started))
        return SQLiteLine(self._file, stored, now)

    async def publish(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        line, encoded = self._accepting(), encode_data(name, data)
        while line.writer.publications >= self._buffer:
            await line.writer.turned()
            self._accepting()
        key = None if dedupe_key is None else digest(dedupe_key)
        if key is not None and not await line.keys.take_surely(key, dedupe_ttl):
            return False
        await line.publish(name, encoded, key, dedupe_ttl)
        return True

    def publish_nowait(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        line, encoded = self._accepting(), encode_data(name, data)
        if line.writer.publications >= self._buffer:
            raise EventBufferFull(
                f"the event buffer is full ({self._buffer} wait to be written): try later, wait with "
                "`await agent.aemit(...)`, or raise SQLiteBus(buffer=...)"
            )
        key = None if dedupe_key is None else digest(dedupe_key)
        if key is not None and not line.keys.take(key, dedupe_ttl):
            return False
        line.publish_soon(name, encoded, key, dedupe_ttl)
        return True

    async def claim(self, key: str, ttl: float) -> bool:
        return await self._opened().keys.claim(digest(key), ttl)

    async def release(self, key: str) -> None:
        self._opened().keys.release(digest(key))

    @property
    def room(self) -> float:
        return 0 if self._line is None else self._buffer - self._line.writer.publications

    @property
    def durable(self) -> bool:
        return True

    @property
    def shared(self) -> bool:
        return False

    @property
    def failure(self) -> Exception | None:
        return None if self._line is None else self._line.writer.failure or self._file.failure

    def check(self, name: str, data: Mapping[str, Any]) -> None:
        encode_data(name, data)

    @asynccontextmanager
    async def consume(self) -> AsyncGenerator[AsyncIterator[Delivery], None]:
        yield SQLiteDeliveries(self._opened())

    def grant_name(self, name: str, count: float) -> None:
        """Hand out so many more of this name; see `GrantsNames`."""
        self._opened().grant(name, count)

    def leftovers(self) -> Iterable[Delivery]:
        """What cannot be written since the file fails; all else is safe and handed out when the bus is opened next."""
        line = self._opened()
        line.stop()
        return line.take_out_the_lost()

    async def drain(self) -> None:
        """Finish what is in hand and what waits, as far as the caller's deadline allows.

        Half of the time until the deadline is for what waits: then nothing more is handed out, so that what is in hand
        has the other half to come to its end. What is not handed out, or waits for a later attempt, stays in the file.
        """
        await self._opened().drain()

    async def dead_letters(self) -> Sequence[DeadLetter]:
        await self._opened().writer.all_written()
        return await self._file.read(list_dead)

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first; see `RemembersRuns`."""
        return await self._file.read(lambda connection: list_waiting_runs(connection, names, limit))

    async def replay(self, letter_id: str) -> bool:
        return await self._accepting().replay(letter_id)

    def _opened(self) -> SQLiteLine:
        if self._line is None:
            raise EventBusClosed("the event bus is not open: it works while the agent serves")
        return self._line

    def _accepting(self) -> SQLiteLine:
        line = self._opened()
        if not line.accepting:
            raise EventBusClosed("the event bus is closing: nothing was accepted")
        return line
