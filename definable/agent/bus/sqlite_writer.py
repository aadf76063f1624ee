"""The one writer of an open `SQLiteBus`: group commit.

The writer takes turns. In each it carries out everything that was wished since the last one, in one transaction, so
that many callers share the cost of a commit. Between turns it sleeps until somebody wishes for something or its host
says that it is time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from definable.errors import StorageError
from definable.storage import SQLiteFile

from .sqlite_batch import Batch, Row
from .sqlite_tables import Order, Receipt, carry_out

logger: logging.Logger = logging.getLogger(__name__)

RETRY_PAUSE = 0.5
"""Seconds between two tries at a file that fails."""

PROBE_KEY = "definable:probe"
"""A dedupe key that has always expired, for a turn that shall tell whether the file can be written again."""

CLOSE_TIMEOUT = 5.0
"""Seconds in which the last turns begin; one that is under way ends by itself."""


class WriterHost(Protocol):
    """Whom the writer works for."""

    def time_to_turn(self) -> float:
        """Seconds until a turn is wanted although nobody wished for anything; 0 for now, infinite for never."""
        ...

    def order(self) -> Order:
        """What to do in the turn that begins, beside what was wished."""
        ...

    def carried_out(self, receipt: Receipt) -> None:
        """The turn is in the file."""
        ...

    def failed(self, batch: Batch) -> None:
        """The turn has failed, and those who wait will be told."""
        ...


class SQLiteWriter:
    """Writes to one file, for one opening of a bus.

    Args:
        file: Where to.
        host: Whom it works for.
    """

    def __init__(self, file: SQLiteFile, host: WriterHost) -> None:
        self.pending: Batch = Batch()
        """What the next turn writes; call `wish` after adding to it."""
        self.failure: Exception | None = None
        """Why the last turn failed; None when it did not."""
        self.began: anyio.Event = anyio.Event()
        """Set when `run` runs."""
        self._file = file
        self._host = host
        self._flying: Batch | None = None
        """What is being written now."""
        self._wake = anyio.Event()
        self._turned = anyio.Event()
        self._closing = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)

    @property
    def publications(self) -> int:
        """How many are not written yet."""
        flying = 0 if self._flying is None else self._flying.publications
        return self.pending.publications + flying

    @property
    def is_at_rest(self) -> bool:
        """Whether everything that was wished is written."""
        return self._flying is None and self.pending.is_empty

    def is_writing_key(self, key: str) -> bool:
        """Whether a dedupe key is on its way into the file."""
        return key in self.pending.keys or (self._flying is not None and key in self._flying.keys)

    def take_out_unwritten(self) -> Sequence[Row]:
        """Take out the new deliveries that were promised, also those that a turn is at, which may be its last."""
        unwritten: list[Row] = []
        for batch in filter(None, (self._flying, self.pending)):
            rows, batch.unawaited = batch.unawaited, []
            unwritten += rows
        return unwritten

    def wish(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    async def turned(self) -> None:
        """Wait for the end of a turn."""
        await self._turned.wait()

    async def all_written(self) -> None:
        """Return once everything that was wished before is written.

        Raises:
            StorageError: It could not be written.
        """
        batch = self.pending
        batch.barrier = True
        self.wish()
        await batch.written()

    def close(self) -> None:
        """Have `run` end with a last turn."""
        self._closing.set()
        self._scope.deadline = anyio.current_time() + CLOSE_TIMEOUT
        self.wish()

    async def run(self) -> None:
        """Take turns until closed, when all is written or cannot be; cancellation does not end it sooner."""
        with self._scope:  # shielded, since what was accepted must be written; `close` sets its deadline
            self.began.set()
            while not self._closing.is_set():
                await self._until_needed()
                await checkpoint()  # those who run now have wishes too
                await self._take_turn()
            while not self.pending.is_empty and self.failure is None:
                await self._take_turn()
        self._count_the_lost()

    async def _until_needed(self) -> None:
        if self.failure is not None:
            with anyio.move_on_after(RETRY_PAUSE):
                await self._closing.wait()
            self.pending.keys[PROBE_KEY] = 0.0
        while self.pending.is_empty and not self._closing.is_set() and (seconds := self._host.time_to_turn()) > 0:
            if self._wake.is_set():
                self._wake = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._wake.wait()

    async def _take_turn(self) -> None:
        order = self._host.order()
        batch, self.pending = self.pending, Batch()
        self._flying = batch
        try:
            receipt = await self._file.write(partial(carry_out, batch=batch, order=order))
        except Exception as error:  # a file that fails must not take the service along
            self._flying = None
            self._fail(batch, error)
        else:
            self._flying = None
            self._succeed(batch, receipt)
        self._end_turn(batch)

    def _end_turn(self, batch: Batch) -> None:
        batch.done.set()
        turned, self._turned = self._turned, anyio.Event()
        turned.set()

    def _succeed(self, batch: Batch, receipt: Receipt) -> None:
        batch.replayed = receipt.replayed
        self._host.carried_out(receipt)
        if self.failure is not None:
            logger.warning("%r: events are written again", self._file)
            self.failure = None

    def _fail(self, batch: Batch, error: Exception) -> None:
        if self.failure is None:
            logger.error("events cannot be written, next try every %g s: %s", RETRY_PAUSE, error)
        self.failure = batch.failure = error if isinstance(error, StorageError) else StorageError(repr(error))
        self._host.failed(batch)
        self.pending.take_over(batch)

    def _count_the_lost(self) -> None:
        left, not_begun = self.pending, self._flying  # `close`'s deadline came before its transaction
        if not_begun is not None:
            left.take_over(not_begun)
        if left.unawaited or left.settlements:
            logger.error(
                "%r was closed before all was written: %d events are lost, %d are handed out once more",
                self._file,
                len(left.unawaited),
                left.settlements,
            )
        for batch in filter(None, (not_begun, left)):
            batch.failure = self.failure or StorageError(f"{self._file!r} was closed before all was written")
            self._end_turn(batch)
