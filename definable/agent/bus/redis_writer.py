"""The one writer of an open `RedisBus`: group commit, one script call a turn.

The writer takes turns. In each it tells Redis everything that was wished since the last one, so that many callers share
a round trip. A turn that Redis does not answer is made again until it does: Redis knows it by its number.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from definable.errors import StorageError
from definable.storage.redis_link import RedisAway, RedisLink

from .redis_scripts import TURN
from .redis_turn import MAX_PUBLICATIONS, Publication, Turn

logger: logging.Logger = logging.getLogger(__name__)

RETRY_PAUSE = 0.5
"""Seconds between two tries of a turn that Redis has refused."""


class RedisWriter:
    """Tells Redis, for one opening of a bus.

    Args:
        link: The connection.
        keys: Of the script, but for the dedupe keys.
        args: The script's first.
        remedy: Puts in order what may have made Redis refuse.
    """

    def __init__(
        self, link: RedisLink, keys: Sequence[str], args: Sequence[Any], remedy: Callable[[], Awaitable[None]]
    ) -> None:
        self.last_entry: bytes = b""
        """The last that this opening has brought into the line."""
        self._link = link
        self._keys, self._args = keys, args
        self._remedy = remedy
        self._numbers = 0
        self._pending: deque[Turn] = deque()
        self._flying: Turn | None = None
        """What is being told now."""
        self._refusal: StorageError | None = None
        self._publications = 0
        self._next_due = math.inf
        """Seconds of the event loop's clock."""
        self._wake = anyio.Event()
        self._turned = anyio.Event()
        self._closing = False
        self._begin_turn()

    @property
    def publications(self) -> int:
        """How many Redis does not have yet."""
        return self._publications

    @property
    def failure(self) -> StorageError | None:
        """Why Redis does not have everything; None while all is well."""
        return self._refusal or self._link.failure

    @property
    def is_at_rest(self) -> bool:
        """Whether Redis has everything that was wished."""
        return self._flying is None and all(turn.is_empty for turn in self._pending)

    @property
    def pending(self) -> Turn:
        """What later turns tell; call `wish` after adding to it."""
        return self._pending[-1]

    def wish(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    def publish(self, publication: Publication) -> None:
        """Have Redis told of new work."""
        if len(self.pending.publications) >= MAX_PUBLICATIONS:
            self._begin_turn()
        publication.turn = self.pending
        publication.turn.publications.append(publication)
        self._publications += 1
        self.wish()

    def withdraw(self, publication: Publication) -> None:
        """Do not tell Redis of it, or not again."""
        if publication in publication.turn.publications and not publication.turn.done.is_set():
            publication.turn.publications.remove(publication)
            self._publications -= 1

    def take_out_untold(self) -> Sequence[Publication]:
        """Take out what was accepted and Redis does not have, but for that whose publishers wait to be told."""
        turns = [*self._pending] if self._flying is None else [self._flying, *self._pending]
        untold = [publication for turn in turns for publication in turn.publications if not publication.is_awaited]
        for publication in untold:
            self.withdraw(publication)
        return untold

    def due_in(self, milliseconds: int) -> None:
        """So soon something comes due; negative when nothing does."""
        self._next_due = math.inf if milliseconds < 0 else anyio.current_time() + milliseconds / 1000
        if milliseconds >= 0:
            self.wish()

    async def turned(self) -> None:
        """Wait for the end of a turn."""
        await self._turned.wait()

    async def all_told(self) -> None:
        """Return once Redis has everything that was wished before.

        Raises:
            StorageError: The bus was closed before.
        """
        turn = self.pending
        turn.is_wished = True
        self.wish()
        await turn.done.wait()
        if turn.failure is not None:
            raise turn.failure

    # --- turns

    async def run(self) -> None:
        """Take turns until closed and all is told."""
        while not self._closing or not self.is_at_rest:
            await self._until_needed()
            await checkpoint()  # those who run now have wishes too
            await self._take_turn()

    def close(self) -> None:
        """Have `run` end as soon as Redis has everything."""
        self._closing = True
        self.wish()

    def give_up(self) -> None:
        """Tell those who wait that there is no hope, and count what is lost; after the end of `run`."""
        left = [turn for turn in (self._flying, *self._pending) if turn is not None]
        failure = self.failure or RedisAway("the event bus was closed before Redis had everything")
        settlements = sum(turn.settlements for turn in left)
        if self._publications or settlements:
            logger.error(
                "closed before Redis had everything (%s): %d events are lost, %d are handed out once more",
                failure,
                self._publications,
                settlements,
            )
        for turn in left:
            turn.failure = failure
            turn.done.set()

    async def _until_needed(self) -> None:
        while self.pending.is_empty and len(self._pending) == 1 and not self._closing:
            seconds = self._next_due - anyio.current_time()
            if seconds <= 0:
                return
            if self._wake.is_set():
                self._wake = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._wake.wait()

    async def _take_turn(self) -> None:
        self._flying = turn = self._pending.popleft()
        if not self._pending:
            self._begin_turn()
        answer = await self._insist(turn)
        self._flying = None
        self._publications -= len(turn.publications)
        refused, due, last = answer
        turn.refused = frozenset(id.decode() for id in refused)
        self.last_entry = last or self.last_entry
        self.due_in(due)
        turn.done.set()
        turned, self._turned = self._turned, anyio.Event()
        turned.set()

    async def _insist(self, turn: Turn) -> Any:
        while True:
            await self._link.is_up()
            turn.was_sent = True
            try:
                answer = await self._tell(turn)
            except RedisAway:
                await checkpoint()
            except StorageError as refusal:  # it is full, or somebody has removed the line
                await self._refused(turn, refusal)
            else:
                self._accepted()
                return answer

    async def _tell(self, turn: Turn) -> Any:
        keys = [*self._keys, *turn.keys()]
        return await self._link.script(TURN, keys, [*self._args, *turn.args(len(self._keys) + 1)])

    async def _refused(self, turn: Turn, refusal: StorageError) -> None:
        if self._refusal is None:
            logger.error("events are refused, next try every %g s: %s", RETRY_PAUSE, refusal)
        self._refusal = refusal
        with suppress(StorageError):
            await self._remedy()
            for refused in (turn, *self._pending):
                await self._settle(refused)
        await anyio.sleep(RETRY_PAUSE)

    async def _settle(self, refused: Turn) -> None:
        """Tell what is done without what is new: it makes room, which may be what is missing."""
        settling = refused.settling()
        if settling.settlements:
            await self._tell(settling)
            refused.is_settled(settling)

    def _accepted(self) -> None:
        if self._refusal is not None:
            logger.warning("Redis accepts events again")
            self._refusal = None

    def _begin_turn(self) -> None:
        self._numbers += 1
        self._pending.append(Turn(self._numbers))
