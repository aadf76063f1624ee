"""What travels between the queue engine and a store: batches to write, messages that were claimed, and data as JSON.

JSON is ASCII, so that half of a surrogate pair, which a model may write, is an escape like any other. As everywhere in
JSON, keys come back as strings and tuples as lists.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, cast

import anyio

from definable.errors import ConfigurationError, StorageError

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
    keeps_time: bool = False
    """Whether it is due when the one that it replaces would have been."""
    group: str | None = None
    """Behind which others it waits: see `Message`."""
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
    groups: set[str] = field(default_factory=set[str])
    """Of which it acknowledges or dead-letters the first message."""
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
    def ended(self) -> Iterator[Handle]:
        """The claimed messages that it settles."""
        yield from self.acked
        yield from (end[0] for ends in (self.nacked, self.dead, self.released) for end in ends)

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
        for entries in (self.parked, self.begun, self.groups, self.keys, self.forgotten, self.cancelled, self.replayed):
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
        self.groups |= other.groups
        self.keys |= other.keys
        self.forgotten |= other.forgotten
        self.cancelled |= other.cancelled
        self.replayed |= other.replayed
        self.is_barrier |= other.is_barrier


class Limit(NamedTuple):
    """How many messages of one name are handled at once, over all processes."""

    size: int
    skip: bool
    """What is no retry and finds it reached is claimed as surplus; else it waits."""


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
    is_surplus: bool = False
    """Whether the limit of its name was reached, so that it is to be skipped."""
    group: str | None = None
    """Until it is acknowledged or a dead letter, no other one of the group may be claimed, also while it waits for its
    time; then the one that was published next may. Unlike others with the same text in whatever name."""


class Claim(NamedTuple):
    """What a flush may claim beside what it writes."""

    demand: int
    """How many messages at most."""
    grants: Mapping[str, float]
    """Names of which so many more may be claimed; all others without limit."""
    known: Collection[str] | None
    """All names that have a handler here; None when every name may be claimed."""
    limits: Mapping[str, Limit] = MappingProxyType({})
    """Of a shared store: a message of these names takes a slot before it is claimed, and holds it until it is settled;
    slots are leased, as claims are."""


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


def last_under_keys(publications: Sequence[Publication]) -> Sequence[Publication]:
    """The publications of a batch less those that another one of them replaces while they wait."""
    left: list[Publication | None] = []
    waiting: dict[str, int] = {}
    for each in publications:
        if (key := each.replaces) is not None:
            before = waiting.pop(key, None)
            if before is not None and (replaced := left[before]) is not None:
                left[before] = None
                if each.keeps_time:
                    each = replace(each, due_at=replaced.due_at, keeps_time=replaced.keeps_time)
            if each.due_at:
                waiting[key] = len(left)
        left.append(each)
    return [each for each in left if each is not None]


# --- data as JSON

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

_SCALARS = (str, int, float, type(None))
"""What JSON has beside objects and arrays; a bool is an int."""


def encode_data(name: str, data: Mapping[str, Any]) -> bytes:
    """The data as bytes.

    Args:
        name: Whom it is for; for the error.
        data: What to encode.

    Raises:
        ConfigurationError: The data holds what JSON cannot; the message says where, and what it is.
    """
    try:
        return _encode(dict(data)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        culprit = _culprit(data, "") if isinstance(error, TypeError) else None
        raise ConfigurationError(
            f"the event for {name!r} cannot be accepted, its bus keeps JSON: {culprit or error}"
        ) from error


def decode_data(data: bytes) -> dict[str, Any]:
    """The data of `encode_data`'s bytes.

    Raises:
        StorageError: The bytes are no data.
    """
    try:
        decoded: object = _decode(data.decode("ascii"))
    except (ValueError, AttributeError, RecursionError) as error:
        raise StorageError(f"a stored event cannot be read: {error}") from error
    if not isinstance(decoded, dict):
        raise StorageError(f"a stored event cannot be read: it is a {type(decoded).__name__}, not an object")
    return cast("dict[str, Any]", decoded)


def _culprit(value: object, path: str) -> str | None:
    """The first value in there that JSON cannot hold, or the first such key, in words."""
    if isinstance(value, Mapping):
        return _culprit_in_object(cast("Mapping[object, object]", value), path)
    if isinstance(value, (list, tuple)):
        found = (_culprit(item, f"{path}[{i}]") for i, item in enumerate(cast("Sequence[object]", value)))
        return next(filter(None, found), None)
    return None if isinstance(value, _SCALARS) else f"{path} is {reprlib.repr(value)}, a {_type_name(value)}"


def _culprit_in_object(value: Mapping[object, object], path: str) -> str | None:
    for key, item in value.items():
        if not isinstance(key, _SCALARS):
            return f"{path or 'the data'} has the key {reprlib.repr(key)}, a {_type_name(key)}"
        if culprit := _culprit(item, f"{path}.{key}" if path else f"{key}"):
            return culprit
    return f"{path} is a {_type_name(value)}, not a dict" if path and not isinstance(value, dict) else None


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
