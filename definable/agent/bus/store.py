"""What a queue engine asks of its store: keep what is published, claim what is due, settle what was claimed.

`queue.py` decides what retry, lease, prefetch, dedupe, drain and dead letter mean, once for all stores. A store
(`memory.py`, `sqlite.py`, `redis.py`, or one of your own: docs/extending.md) only keeps rows.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import anyio

from definable.errors import StorageError

from .base import DeadLetter

Handle: TypeAlias = Hashable
"""How a store finds a claimed message again: a position, an entry of a stream."""


BY_NAME = -1.0
"""See `WriteBatch.released`."""


class BatchRefused(StorageError):
    """The store refused a batch and will refuse it again: it is split, until what causes it stands alone and fails."""


@dataclass(slots=True, eq=False)
class Publication:
    """One message that is to be kept."""

    id: str
    name: str
    data: Any
    """Bytes of JSON where the store keeps JSON, else what was published."""
    key: str | None = None
    """The digest of its dedupe key."""
    key_ttl: float = 0.0
    """Seconds for which the dedupe key is remembered."""
    due_at: float = 0.0
    """When it may be claimed, in seconds of the event loop's clock; 0 for at once."""
    replaces: str | None = None
    """Its name for `cancel`: one that waits under the same name is replaced."""
    is_awaited: bool = False
    """Whether its publisher waits for the outcome."""
    outcome: bool | Exception | None = None
    """None while it is not known, True when accepted, False when refused as a repeat, or why it failed."""
    batch: WriteBatch | None = None


@dataclass(slots=True, eq=False)
class WriteBatch:
    """Everything since the last flush: publications, and how claimed messages ended. Written whole or not at all.

    No two of its entries concern the same message.
    """

    publications: list[Publication] = field(default_factory=list[Publication])
    size: int = 0
    """Bytes of the publications."""
    acked: list[Handle] = field(default_factory=list[Handle])
    nacked: list[tuple[Handle, float, int]] = field(default_factory=list["tuple[Handle, float, int]"])
    """With the time when each is due again (seconds of the event loop's clock) and the attempts so far."""
    dead: list[tuple[Handle, str, int]] = field(default_factory=list["tuple[Handle, str, int]"])
    """With the reason and the attempts so far."""
    released: list[tuple[Handle, float]] = field(default_factory=list["tuple[Handle, float]"])
    """Claimed and not begun: neither an attempt nor a delivery. With when each may be claimed again; 0 for now, and
    `BY_NAME` where a process is looked for that can begin what is of its name."""
    parked: dict[Handle, None] = field(default_factory=dict[Handle, None])
    """Still claimed, but not begun: one claim less each."""
    begun: dict[Handle, None] = field(default_factory=dict[Handle, None])
    """Begun after they were parked: one claim more each."""
    keys: dict[str, float] = field(default_factory=dict[str, float])
    """Digests of dedupe keys that no publication brought, and when they expire (seconds of the loop's clock)."""
    forgotten: set[str] = field(default_factory=set[str])
    """Digests of dedupe keys to forget, before those of the publications are taken."""
    cancelled: dict[str, None] = field(default_factory=dict[str, None])
    """Names for `cancel` of messages that wait for their time: they are removed."""
    replayed: dict[str, None] = field(default_factory=dict[str, None])
    """Ids of dead letters to publish anew."""
    is_barrier: bool = False
    """Somebody waits until all before it is written."""
    number: int = 0
    """Grows by one with each batch: a repeated one is made once."""
    done: anyio.Event = field(default_factory=anyio.Event)
    """Set when it has come to an end: written, failed or split."""
    failure: Exception | None = None
    moved_to: WriteBatch | None = None
    """Where its settlements are written after it failed."""
    applied: Applied | None = None

    @property
    def settlements(self) -> int:
        """How many claimed messages it settles."""
        return len(self.acked) + len(self.nacked) + len(self.dead) + len(self.released)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write and nobody waits."""
        return not (
            self.publications
            or self.settlements
            or self.parked
            or self.begun
            or self.keys
            or self.forgotten
            or self.cancelled
            or self.replayed
            or self.is_barrier
        )

    def clear(self) -> None:
        """Empty it, to be used again where batches are applied at once."""
        for entries in (self.publications, self.acked, self.nacked, self.dead, self.released):
            if entries:
                entries.clear()
        for entries in (self.parked, self.begun, self.keys, self.forgotten, self.cancelled, self.replayed):
            if entries:
                entries.clear()
        self.is_barrier = False

    def take_settlements(self, other: WriteBatch) -> None:
        """Write what another batch would have written, but for its publications; what is here is the earlier."""
        self.acked += other.acked
        self.nacked += other.nacked
        self.dead += other.dead
        self.released += other.released
        self.parked |= other.parked
        self.begun |= other.begun
        self.keys |= other.keys
        self.forgotten |= other.forgotten
        self.cancelled |= other.cancelled
        self.replayed |= other.replayed
        self.is_barrier |= other.is_barrier


class Message(NamedTuple):
    """A claimed message."""

    handle: Handle
    id: str
    name: str
    data: Mapping[str, Any]
    attempts: int
    """How many attempts there were before."""
    claims: int
    """How often it was claimed since something last came of it, this claim included: attempts of processes that died.
    """


class Claim(NamedTuple):
    """What a flush may claim beside what it writes."""

    demand: int
    """How many messages at most."""
    grants: Mapping[str, float]
    """Names of which so many more may be claimed; all others without limit."""
    known: Collection[str] | None
    """All names that have a handler here; None when every name may be claimed."""


class Applied(NamedTuple):
    """What came of a batch that was written."""

    claimed: Sequence[Message] = ()
    has_more: bool = False
    """Whether more could be claimed at once, had it been asked for."""
    next_due: float | None = None
    """When the next message is due, in seconds of the event loop's clock."""
    repeated: Collection[str] = ()
    """Ids of publications whose dedupe keys were taken."""
    replayed: Collection[str] = ()
    """Of the dead letters to replay, those that there were."""
    cancelled: Collection[str] = ()
    """Of the names to cancel, those that had something waiting."""


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
    shared: bool
    """Whether other processes claim from it too: dedupe keys are decided by it, and messages are held under a lease."""
    keeps_trying: bool
    """Whether a publisher waits while the store fails, for as long as the bus lets it; else it is told at once."""
    max_publications: int
    """In one batch."""
    is_taking: bool
    """Whether messages may be on their way out of a shared store, claimed and not known here."""

    @property
    def waiting(self) -> int:
        """Messages that wait in memory and count against the buffer; 0 for a store that is not memory."""
        ...

    def describe_waiting(self) -> str:
        """What more there is to say of a full buffer, for the error; may be empty."""
        ...

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

    async def run(self) -> None:
        """Do what must be done beside flushes until cancelled, as to renew leases; may return at once."""
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

    async def rest(self) -> bool:
        """Claim nothing more until the next publication; whether nothing is on its way from a shared store."""
        ...

    async def claim_key(self, digest: str, ttl: float) -> bool:
        """Remember a dedupe key in a shared store; False when it is remembered."""
        ...

    async def release_key(self, digest: str) -> None:
        """Forget a dedupe key in a shared store."""
        ...

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Oldest first."""
        ...

    async def close(self, held: Sequence[Handle]) -> None:
        """The last flush is written: give back what is still claimed; each was an attempt, of which nothing came."""
        ...


@runtime_checkable
class ImmediateStore(Store, Protocol):
    """A store of which nothing takes time, so that the engine need not wait for its next flush."""

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
