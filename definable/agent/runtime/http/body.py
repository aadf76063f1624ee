"""Request bodies on their way in, over all connections: bounded in bytes together, and each in silence; decompressed.

A body may take as long as it needs while bytes keep coming. So nothing but this bound limits what clients hold that
send a little now and then, mostly before anybody knows who they are. `Request.body` reads through it, behind any ASGI
server.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio

from definable.concurrency.event_loop import loop_clock
from definable.errors import ConfigurationError
from definable.server.problem import Problem

BODY_SILENCE = 30.0
"""Seconds without a byte after which a body is given up: 408."""

COARSENESS = 1.0
"""Seconds that the end of a body may come late by."""

STALLED = 1.0
"""Seconds without a byte after which a body gives way to others when the memory for them is used up."""

PIECE = 4096
"""Bytes of a piece that is kept as it came."""

DEFAULT_MEMORY = 64 * 1024 * 1024
"""Bytes that all unfinished bodies may hold together, unless one endpoint takes larger ones than half of it."""

RETRY_AFTER = (b"retry-after", b"1")


class UnfinishedBody:
    """One body that is coming in.

    Args:
        bodies: All of them.
        clock: The event loop's, in seconds.
    """

    __slots__ = ("_bodies", "_clock", "_heard_at", "_pieces", "_tail", "_waiting", "gave_way", "size")

    def __init__(self, bodies: UnfinishedBodies, clock: Callable[[], float]) -> None:
        self._bodies = bodies
        self._clock = clock
        self._heard_at = clock()
        self._waiting = anyio.CancelScope(deadline=self._heard_at + BODY_SILENCE)
        self._pieces: list[bytes] = []
        self._tail = bytearray()
        """What came after the last of the pieces, each of which would hold many times as much of single bytes."""
        self.size: int = 0
        """Bytes so far."""
        self.gave_way: bool = False
        """Whether it was ended because others needed the memory."""

    def add(self, data: bytes) -> None:
        """Some bytes have come in; none are no sign of life.

        Raises:
            Problem: 503, there is no memory for them.
        """
        if data and not self.gave_way:  # its cancellation may not have come yet
            now = self._heard_at = self._clock()
            if self._waiting.deadline < now + BODY_SILENCE:  # each change of it costs the event loop a timer
                self._waiting.deadline = now + BODY_SILENCE + COARSENESS
            self._keep(data)
            self._bodies.grown(self, len(data))

    def _keep(self, data: bytes) -> None:
        self.size += len(data)
        if len(data) < PIECE:
            self._tail += data
            return
        # As it is: a buffer that grows is copied again and again, while every other client waits.
        if self._tail:
            self._pieces.append(bytes(self._tail))
            self._tail = bytearray()
        self._pieces.append(data)

    def whole(self) -> bytes:
        """All that has come in."""
        return b"".join((*self._pieces, self._tail))

    def discard(self) -> None:
        """Drops what has come in, which the traceback of its refusal would hold until a garbage collection."""
        self._pieces, self._tail, self.size = [], bytearray(), 0

    def gives_way(self) -> bool:
        """Ends it, if it has stalled."""
        if self._clock() - self._heard_at < STALLED:
            return False
        self.gave_way = True
        self._waiting.cancel()
        return True

    @property
    def waiting(self) -> anyio.CancelScope:
        """The scope in which it is waited for."""
        return self._waiting


class UnfinishedBodies:
    """All request bodies that are coming in.

    Args:
        limit: Bytes that they may hold together.
    """

    __slots__ = ("_bodies", "_clock", "_limit", "_size")

    def __init__(self, limit: int = DEFAULT_MEMORY) -> None:
        self._limit = limit
        self._clock: Callable[[], float] | None = None
        self._size = 0
        self._bodies: OrderedDict[UnfinishedBody, None] = OrderedDict()
        """The longest silent first."""

    @property
    def size(self) -> int:
        """Bytes that they hold now."""
        return self._size

    @contextmanager
    def reading(self) -> Generator[UnfinishedBody]:
        """Holds a body's place while it comes in.

        Raises:
            Problem: 408 after `BODY_SILENCE`, 503 when there is no memory for it.
        """
        if self._clock is None:
            self._clock = loop_clock()
        body = UnfinishedBody(self, self._clock)
        self._bodies[body] = None
        try:
            with body.waiting:
                yield body
        finally:
            self._forget(body)
            body.discard()
        if body.gave_way:
            raise no_memory("and this request's body stalled")
        if body.waiting.cancelled_caught:
            raise Problem(408, f"no byte of the request's body came in for {BODY_SILENCE:g} seconds")

    def grown(self, body: UnfinishedBody, size: int) -> None:
        """Counts bytes of a body, for which those give way that have stalled.

        Raises:
            Problem: 503, there is no memory for them.
        """
        self._size += size
        self._bodies.move_to_end(body)
        if self._size <= self._limit:
            return
        while self._size > self._limit:
            oldest = next(iter(self._bodies))
            if oldest is body or not oldest.gives_way():
                raise no_memory("try again later")
            self._forget(oldest)
            oldest.discard()

    def _forget(self, body: UnfinishedBody) -> None:
        if body in self._bodies:
            del self._bodies[body]
            self._size -= body.size


def memory_for_bodies(chosen: int | None, largest: int) -> int:
    """Bytes that all unfinished bodies may hold together.

    Args:
        chosen: What the user wants; None leaves the choice to us.
        largest: Bytes of the largest body that an endpoint takes.

    Raises:
        ConfigurationError: The largest body alone would not fit in.
    """
    if chosen is None:
        return max(DEFAULT_MEMORY, 2 * largest)
    if chosen < largest:
        raise ConfigurationError(
            f"max_memory_bodies={chosen!r}: a webhook takes bodies of {largest} bytes (max_body), so at least that many"
        )
    return chosen


def no_memory(detail: str) -> Problem:
    """The answer to a request whose body finds no memory."""
    return Problem(
        503, f"the service holds as many unfinished request bodies as it may: {detail}", headers=[RETRY_AFTER]
    )


WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""For zlib, by coding: a gzip header (RFC 1952), or a zlib header (RFC 1950)."""

UNCHANGED = ("", "identity")

MAX_MEMBERS = 100
"""Of a gzip file: each costs as much to begin as some kilobytes to read."""

ACCEPT_ENCODING = (b"accept-encoding", b"gzip, deflate")
"""RFC 9110, 15.5.16: a 415 says what would be understood."""


def decoded(coding: str, body: bytes, limit: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        coding: The `Content-Encoding` header; empty when there is none.
        body: The bytes that were sent.
        limit: Bytes that may come out; no more are ever made.

    Raises:
        Problem: 415, the coding is not understood; 413, more would come out; 400, the body is not what it says.
    """
    coding = coding.strip().lower()
    if coding in UNCHANGED or not body:
        return body
    bits = WINDOW_BITS.get(coding)
    if bits is None:
        raise Problem(
            415, f"the Content-Encoding {coding[:50]!r} is not understood: gzip or deflate", headers=[ACCEPT_ENCODING]
        )
    try:
        return _inflated(bits, body, limit)
    except zlib.error as error:
        raise Problem(400, f"the body is not {coding}: {error}") from None


def _inflated(bits: int, body: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(bits)
        part = member.decompress(body, left + 1)
        if len(part) > left:
            raise Problem(413, f"the request body is larger than {limit} bytes")
        parts.append(part)
        left -= len(part)
        if not member.eof:
            raise zlib.error("it is cut off")
        body = member.unused_data
        if not body:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise zlib.error(f"it has more than {MAX_MEMBERS} members")
