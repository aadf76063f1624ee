"""What a queue engine asks of its store: keep what is published, claim what is due, settle what was claimed.

`queue.py` decides what retry, lease, prefetch, dedupe, drain and dead letter mean, once for all stores. A store
(`memory.py`, `sqlite.py`, or one of your own: docs/extending.md) only keeps rows; one that processes share (`redis.py`)
decides dedupe keys too, and what it hands out is held under a lease.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

from .base import DeadLetter
from .batch import Applied, Claim, Handle, Message, WriteBatch


class Queue(Protocol):
    """What a store may call back, on the event loop's thread."""

    @property
    def claim(self) -> Claim:
        """What may be claimed now."""
        ...

    @property
    def demand(self) -> int:
        """How many messages consumers wait for beyond those that are claimed."""
        ...

    @property
    def held(self) -> Collection[Handle]:
        """What is claimed and not settled."""
        ...

    @property
    def claimed(self) -> Collection[Handle]:
        """What is held, and what was settled without that being written yet."""
        ...

    async def asked_again(self, count: int) -> None:
        """Let those who were just handed so many messages ask for more, if they are quick."""
        ...

    async def demanded(self) -> bool:
        """Return once there is a demand; False when nothing more will be handed out."""
        ...

    def arrived(self, messages: Sequence[Message], *, next_due: float | None = None, has_more: bool = False) -> None:
        """These were claimed outside of a flush; `has_more` tells whether the next one could claim more."""
        ...

    def dismiss(self, handle: Handle, *, by_name: bool) -> None:
        """What was claimed is not handed out: it goes to those who can begin what is of its name, or is dropped."""
        ...

    def request_flush(self) -> None:
        """Have a flush made although nothing is to be written."""
        ...

    def notify(self) -> None:
        """There may be something to flush or to claim."""
        ...

    def lease_lost(self, handle: Handle) -> None:
        """Another process has this message by now."""
        ...


class Store(Protocol):
    """Keeps messages for one engine at a time on one event loop."""

    durable: bool
    """Whether what it keeps outlives the process, so that it must be JSON."""
    keeps_trying: bool
    """Whether a publisher waits while the store fails, for as long as the bus lets it; else it is told at once."""
    max_publications: int
    """In one batch."""
    orders_groups: bool
    """Whether it claims one message of a group at a time (`Publication.group`); else none with a group is accepted."""

    def take_all(self) -> Sequence[Message]:
        """Take out what waits and will be lost when this opening ends."""
        ...

    @property
    def failure(self) -> Exception | None:
        """Why it does not work at present; None while it does."""
        ...

    def opened(self, queue: Queue) -> AbstractAsyncContextManager[Sequence[tuple[str, float]]]:
        """Open files and connections, and run what must run beside the engine; leaving the context closes them.

        Yields:
            Digests of dedupe keys of earlier openings and the seconds for which each is still remembered.
        """
        ...

    async def apply(self, batch: WriteBatch, claim: Claim) -> Applied:
        """Write a batch, whole or not at all, then claim what is asked for.

        Raises:
            BatchRefused: It will be refused again.
            StorageError: It failed, and nothing was written; the same batch may succeed later.
        """
        ...

    async def is_drained(self) -> bool:
        """Whether nothing waits that this process brought and that a process like it may claim now."""
        ...

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Oldest first."""
        ...

    async def close(self, held: Sequence[Handle]) -> None:
        """The last flush is written: give back what is still claimed; each was an attempt, of which nothing came."""
        ...


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store from which other processes claim too: it decides dedupe keys, and messages are held under a lease."""

    @property
    def is_taking(self) -> bool:
        """Whether messages may be on their way here, claimed and not known yet."""
        ...

    async def run(self) -> None:
        """Do what must be done beside flushes until cancelled, as to renew leases; may return at once."""
        ...

    async def rest(self) -> bool:
        """Claim nothing more until the next publication; whether nothing is on its way here."""
        ...

    async def claim_key(self, digest: str, ttl: float) -> bool:
        """Remember a dedupe key; False when it is remembered."""
        ...

    async def release_key(self, digest: str) -> None:
        """Forget a dedupe key."""
        ...


@runtime_checkable
class ImmediateStore(Store, Protocol):
    """A store of which nothing takes time, so that the engine need not wait for its next flush."""

    @property
    def waiting(self) -> int:
        """Messages that wait, and count against the buffer."""
        ...

    def describe_waiting(self) -> str:
        """What more there is to say of a full buffer, for the error; may be empty."""
        ...

    def apply_now(self, batch: WriteBatch, claim: Claim) -> Applied:
        """As `apply`."""
        ...

    def append_now(self, id: str, name: str, data: Any) -> None:
        """Keep one message."""
        ...

    def claim_now(self, claim: Claim) -> Sequence[Message]:
        """Claim what is asked for."""
        ...

    def waits_until(self, deadline: float) -> bool:
        """Whether something waits that is due by then (seconds of the event loop's clock)."""
        ...
