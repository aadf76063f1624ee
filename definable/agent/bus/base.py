"""The protocol between what accepts work and what does it later.

`Emitter`, the cron loop and accepting webhooks publish; the runtime's workers consume. The bus knows neither triggers
nor handlers: a delivery is a name, some data and its account.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from anyio import CancelScope

DEDUPE_TTL = 24 * 3600.0
"""Seconds for which a dedupe key is remembered unless said otherwise."""


class Delivery(Protocol):
    """One accepted piece of work, handed to one worker, which must settle it: `ack`, `nack` or `dead`."""

    @property
    def id(self) -> str:
        """The same over all attempts."""
        ...

    @property
    def name(self) -> str:
        """Whom it is for: the key of a trigger."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """What was published."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first, then one more each time it is handed out."""
        ...

    @property
    def lease(self) -> CancelScope | None:
        """A scope to handle it in, once: the bus cancels it when somebody else has the delivery by now, and then no
        longer listens to how it ends. None where nobody else can have it."""
        ...

    async def ack(self) -> None:
        """It is done."""
        ...

    async def nack(self, delay: float = 0.0) -> None:
        """It failed; hand it out again after `delay` seconds."""
        ...

    async def dead(self, why: str) -> None:
        """It failed for good: keep it among the dead letters."""
        ...


@runtime_checkable
class Parkable(Protocol):
    """A delivery that may wait in a process without being an attempt; it is one otherwise as soon as it is taken."""

    def park(self) -> None:
        """It cannot be begun yet: until `begin` it is no attempt, also when the process dies meanwhile."""
        ...

    def begin(self) -> None:
        """Its handler begins."""
        ...

    async def release(self) -> None:
        """It was not begun: hand it out again, here or elsewhere, as if it never had been."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that failed for good, kept to be looked at and replayed."""

    id: str
    name: str
    data: Mapping[str, Any]
    attempt: int
    why: str
    died_at: float
    """Unix seconds."""
    group: str | None = None
    """What tells its group from others, where it has one: it is replayed behind the others of it."""


class Submission(NamedTuple):
    """What is published together with others."""

    name: str
    data: Mapping[str, Any]
    dedupe_key: str | None = None
    dedupe_ttl: float = DEDUPE_TTL
    delay: float = 0.0
    """Seconds until it may be handed out."""
    key: str | None = None
    """What `cancel` knows it by while it waits; it replaces one that waits under the same key."""
    keeps_time: bool = False
    """Whether it is due when the one that it replaces would have been, and after its own delay where there is none."""
    group: str | None = None
    """Those of one name and group are handed out one after the other, in the order in which they were accepted: the
    next when the one before is acknowledged or a dead letter, so not while that waits for another attempt. None of
    them has a `delay` or a `key`."""


@runtime_checkable
class PublishesMany(Protocol):
    """An event bus that accepts several submissions at once; one that cannot is given them one after the other."""

    async def publish_many(self, submissions: Sequence[Submission]) -> Sequence[bool]:
        """Accept them, all or none where one write holds them all; False for each that was refused as a repeat.

        Raises:
            EventBusClosed: The bus is not open.
            StorageError: What keeps the work failed; nothing was accepted.
        """
        ...

    def submit_nowait(self, submissions: Sequence[Submission]) -> Sequence[bool]:
        """Accept them at once, from the event loop's own thread; False for each that was refused as a repeat.

        Raises:
            EventBufferFull: There is no room; nothing was accepted.
            EventBusClosed: The bus is not open.
        """
        ...

    async def cancel(self, key: str) -> bool:
        """Withdraw what waits for its time under this key; False when nothing does."""
        ...


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run that somebody was promised by its id, whose delivery waits in the bus or is in hand."""

    run_id: str
    source: str
    user_id: str | None
    accepted_at: float
    """Unix seconds."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> WaitingRun | None:
        """The run that a delivery with this data promises; None when it promises none."""
        run_id, source, user_id, at = (data.get(key) for key in ("run_id", "source", "user_id", "timestamp"))
        if not (isinstance(run_id, str) and isinstance(source, str) and isinstance(at, int | float)):
            return None
        return cls(run_id, source, user_id if isinstance(user_id, str) else None, at)

    @classmethod
    def all_of(cls, found: Iterable[Mapping[str, Any]]) -> Sequence[WaitingRun]:
        """The runs that deliveries with these data promise."""
        return [run for run in map(cls.of, found) if run is not None]


@runtime_checkable
class RemembersRuns(Protocol):
    """An event bus that can say after a restart which runs it still holds; one that cannot does without."""

    async def waiting_runs(self, names: Collection[str], limit: int) -> Sequence[WaitingRun]:
        """The runs that were promised and are not settled, oldest first.

        Args:
            names: Whom their deliveries are for.
            limit: How many are wanted at most.

        Raises:
            StorageError: What keeps the work failed.
        """
        ...


@runtime_checkable
class ClaimsByName(Protocol):
    """An event bus that can leave what is for one name where it is, and hand out all else meanwhile."""

    def only_names(self, names: Collection[str]) -> None:
        """Hand out what is for these names alone: all else is for processes that know it."""
        ...

    def grant_name(self, name: str, count: float) -> None:
        """Hand out so many more of this name; from the first call on nothing of it is handed out without.

        Args:
            name: Whom the deliveries are for.
            count: How many more, in their order; infinite for all from now on.
        """
        ...


@runtime_checkable
class KeepsValues(Protocol):
    """A shared event bus in which one process finds what another one remembers."""

    async def keep_value(self, key: str, value: bytes, ttl: float, *, replace: bool = False) -> bytes | None:
        """Remember a value for `ttl` seconds, unless there is one.

        Args:
            key: Of any length.
            value: What is remembered.
            ttl: Seconds.
            replace: Remember it also where there is one.

        Returns:
            What is there already, and stays; None where this value is remembered now.

        Raises:
            EventBusClosed: The bus is not open.
            StorageError: What keeps the work failed; the value may be remembered all the same.
        """
        ...

    async def drop_value(self, key: str) -> None:
        """Forget a value."""
        ...


@runtime_checkable
class SharesLimits(Protocol):
    """An event bus that bounds, over all processes, how many deliveries of one name are handled at once."""

    def limit_name(self, name: str, count: int, *, skip: bool) -> None:
        """Hand out a delivery of this name when fewer than `count` are handled, wherever that is.

        Args:
            name: Whom the deliveries are for.
            count: How many are handled at once.
            skip: What is no retry and finds the limit reached is handed out all the same, as a `Limited` surplus; else
                it waits.
        """
        ...


@runtime_checkable
class Limited(Protocol):
    """A delivery of a bus that shares limits."""

    is_surplus: bool
    """Whether the limit of its name was reached: it is to be skipped."""


class Backlog(NamedTuple):
    """What waits for a worker, over all processes that share the bus."""

    waiting: int = 0
    """Deliveries that could be begun now, and are not."""
    since: float | None = None
    """The timestamp of the one that waits longest, in Unix seconds; None where nothing waits or it has none."""

    @classmethod
    def of(cls, waiting: int, first: Iterable[Mapping[str, Any]]) -> Backlog:
        """So many, where these, by their data, are the first of each queue."""
        times = [at for data in first if isinstance(at := data.get("timestamp"), int | float)]
        return cls(waiting, min(times, default=None))


@runtime_checkable
class MeasuresBacklog(Protocol):
    """An event bus that can say how much waits in it."""

    async def backlog(self) -> Backlog:
        """What waits now.

        Raises:
            EventBusClosed: The bus is not open.
            StorageError: What keeps the work failed.
        """
        ...


MAX_SCANNED = 64 * 1024 * 1024
"""Bytes of deliveries that `waiting_runs` reads at most: a start must not wait for a long queue of large ones."""


@runtime_checkable
class EventBus(Protocol):
    """Accepts work for later and hands it out, each piece to one consumer, at least once."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """The bus works while the context is open; leaving it closes files, connections and tasks."""
        ...

    async def publish(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        """Accept work, waiting for room. When it returns, the work is as safe as this bus makes it.

        A bus that waits for a disk or a broker may have accepted the work although its caller was cancelled, as with
        every answer that gets lost on its way.

        Args:
            name: Whom it is for.
            data: What the worker gets; JSON-serialisable where the bus is more than memory.
            dedupe_key: A repeat of the key within its time to live is refused.
            dedupe_ttl: Seconds for which the key is remembered.

        Returns:
            False when it was refused as a repeat.

        Raises:
            ConfigurationError: This bus cannot carry the data.
            EventBusClosed: The bus is not open.
            StorageError: What keeps the work failed; nothing was accepted.
        """
        ...

    def publish_nowait(
        self, name: str, data: Mapping[str, Any], *, dedupe_key: str | None = None, dedupe_ttl: float = DEDUPE_TTL
    ) -> bool:
        """Accept work at once, from the event loop's own thread.

        Raises:
            ConfigurationError: This bus cannot carry the data.
            EventBufferFull: There is no room; nothing was accepted.
            EventBusClosed: The bus is not open.
        """
        ...

    async def claim(self, key: str, ttl: float) -> bool:
        """Remember a key for `ttl` seconds; False when it is remembered already. Keys of `publish` are among them.

        For work that is done while somebody waits. What a process that dies had claimed is forgotten: nobody knows
        whether its work was done.
        """
        ...

    async def release(self, key: str) -> None:
        """Forget a key: what it stood for has failed and may come again."""
        ...

    @property
    def capacity(self) -> float:
        """How many calls of `publish_nowait` would be accepted now: 0 while not open, infinite if never full."""
        ...

    @property
    def durable(self) -> bool:
        """Whether what was accepted outlives this process, so that whatever a stop leaves undone is handed out again
        later; capacity of such a bus comes free without its consumers."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes may handle what this one accepted, who then learns nothing of its end."""
        ...

    @property
    def failure(self) -> Exception | None:
        """Why the open bus does not work at present; None while it does."""
        ...

    def check(self, name: str, data: Mapping[str, Any]) -> None:
        """Raise if this bus cannot carry the data; callable from any thread.

        Raises:
            ConfigurationError: What is not JSON-serialisable, where the bus is more than memory.
        """
        ...

    def take_undone(self) -> Iterable[Delivery]:
        """Take out what was accepted, is in nobody's hands, and is lost with this process; accept nothing more."""
        ...

    def consume(self) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Deliveries, as they become due; the iterator may be shared by any number of tasks."""
        ...

    async def drain(self) -> None:
        """Return once nothing accepted is left that this process must finish before it may end."""
        ...

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """The deliveries that failed for good, oldest first."""
        ...

    async def replay(self, letter_id: str) -> bool:
        """Accept a dead letter anew, as a first attempt; False when there is none of that id."""
        ...
