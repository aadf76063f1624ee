"""What one client, and all of them together, may take from the server, and what happens at the limit.

The listener and the connections read `ServerLimits`. `connections_within_descriptors` says how many connections the
file descriptors allow (Unix alone). At the limit `Evictions` closes a connection that waits for a request, or
`refuse_connection` answers the new one with 503.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from heapq import nsmallest
from typing import TYPE_CHECKING, NamedTuple

import anyio

from definable.errors import ConfigurationError

from .http1_response import whole_response
from .problem import Problem
from .transport import ClientStream, Transport

if TYPE_CHECKING:
    from .connection import ServerConnection

DESCRIPTOR_RESERVE = 64
"""Descriptors for listeners, the event loop, files, and connections that are being refused."""

MAX_RESERVED = 1_536
"""Descriptors at most for what the application connects to itself."""

BATCH = 256
"""Connections that one look at all of them picks, which takes a millisecond or two for ten thousand."""

PAUSE = 2e-6
"""Seconds for each connection until the next look after one that found fewer: nearly all are busy then, and looks take
a tenth of the time."""

RETRY_AFTER = b"1"
"""Seconds after which a refused client may try again."""

REFUSAL_TIMEOUT = 1.0
"""Seconds that a refused client may take to read its answer."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of an `HTTPServer`; the defaults suit a service on the open internet.

    Raises:
        ConfigurationError: A limit is not positive.
    """

    max_connections: int = 10_000
    """Open connections. One more is answered 503 with `Retry-After` and closed (over TLS it is just closed), so that a
    load balancer learns at once what a connection left waiting in the backlog would hide."""

    max_header_bytes: int = 65_536
    """Bytes of a request line and headers; more is answered 431."""

    header_timeout: float = 30.0
    """Seconds from the first byte of a request head to its last (on a new connection from the accept, with the TLS
    handshake); a slower one is answered 408."""

    body_timeout: float = 30.0
    """Seconds of silence within a request's body while the application waits for it; then it is answered 408. A body
    that keeps coming may take as long as it needs."""

    keep_alive_timeout: float = 75.0
    """Seconds that a connection may stay open between two requests: more than the 60 s after which common load
    balancers drop it, so that they are the ones who close."""

    last_request_timeout: float = 0.25
    """Seconds that a connection without a request stays open when the server drains: one that is on its way then gets
    its 503, where a closed connection would not tell its sender whether it was heard."""

    last_silence_timeout: float = 5.0
    """Seconds of silence within a request that is not whole when the server drains; then it is answered 408."""

    write_timeout: float = 30.0
    """Seconds that a client may take to accept the next 64 KiB of a response before its connection is aborted."""

    max_streams: int = 100
    """Concurrent requests on one HTTP/2 connection."""

    max_message_bytes: int = 16 * 1024 * 1024
    """Bytes of one WebSocket message, inflated; more closes it with code 1009."""

    max_websocket_bytes: int = 128 * 1024 * 1024
    """Bytes that the unfinished and unread messages of all WebSockets take together, beyond 64 KiB of each; one more
    message closes its connection with code 1013."""

    ping_interval: float = 20.0
    """Seconds until a WebSocket's first ping, and between two: they keep proxies from dropping a quiet connection."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigurationError(f"{field.name} must be more than 0, not {value!r}")


def connections_within_descriptors(wanted: int) -> int:
    """How many connections may be open at once; raises the soft limit of descriptors if that is what is missing.

    The soft limit (1,024 under systemd and in most shells, for the sake of programs that use select(2)) is raised
    towards the hard one, which is the administrator's. Each connection may make the application open one of its own: so
    these get half of what there is, up to `MAX_RESERVED`.

    Args:
        wanted: Connections that the service is asked to take.

    Returns:
        As many, or fewer where the hard limit allows no more.
    """
    limit = _raised_limit(DESCRIPTOR_RESERVE + wanted + min(wanted, MAX_RESERVED))
    if limit is None:
        return wanted
    reserved = DESCRIPTOR_RESERVE + min((limit - DESCRIPTOR_RESERVE) // 2, MAX_RESERVED)
    return min(wanted, max(1, limit - reserved))


def _raised_limit(needed: int) -> int | None:
    """The limit of descriptors after it was raised towards what is needed; None where there is none."""
    if sys.platform == "win32":  # sockets are no descriptors there
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # macOS has a lower limit than the hard one says: OPEN_MAX
        return soft
    return raised


class HeadWait(NamedTuple):
    """A connection's wait for the head of a request; of two, the lesser is evicted first."""

    has_begun: bool
    """Whether some of the head has come."""
    since: float
    """On the event loop's clock."""
    is_first: bool
    """Whether there was no request on this connection before."""


class Evictions:
    """Ends connections that wait for a request, the longest waiting first; one with a request is never ended.

    A server may close a connection between two requests at any time (RFC 9112, section 9.5), so thousands of clients
    that keep theirs open without need shut nobody out. Connections that have had a request go first, as a new one is
    about to bring its own; unless more than half of all have had none: then those go first.

    Args:
        connections: All that are served.
        clock: The event loop's, in seconds.
    """

    def __init__(self, connections: Collection[ServerConnection], clock: Callable[[], float]) -> None:
        self._connections = connections
        self._clock = clock
        self._picked: deque[tuple[HeadWait, ServerConnection]] = deque()
        self._next_look = 0.0

    def evict(self) -> bool:
        """Ends one connection; False if none may be ended now."""
        return self._evict_picked() or (self._look() and self._evict_picked())

    def _evict_picked(self) -> bool:
        while self._picked:
            wait, connection = self._picked.popleft()
            if connection.head_wait == wait and not connection.has_unread:
                connection.end()
                return True
        return False

    def _look(self) -> bool:
        """Picks connections; says whether there are any."""
        now = self._clock()
        if now < self._next_look:
            return False
        new: list[tuple[HeadWait, ServerConnection]] = []
        used: list[tuple[HeadWait, ServerConnection]] = []
        for connection in self._connections:
            if (wait := connection.head_wait) is not None:
                (new if wait.is_first else used).append((wait, connection))
        candidates = new if 2 * len(new) > len(self._connections) or not used else used
        self._picked.extend(nsmallest(BATCH, candidates, key=lambda pair: pair[0]))
        if len(self._picked) < BATCH:
            self._next_look = now + PAUSE * len(self._connections)
        return bool(self._picked)


async def refuse_connection(stream: ClientStream) -> None:
    """Answers 503 before any request is read, and closes."""
    problem = Problem(503, "The server has as many connections as it takes.", headers=[(b"retry-after", RETRY_AFTER)])
    transport = Transport(stream, REFUSAL_TIMEOUT)
    try:
        with anyio.move_on_after(REFUSAL_TIMEOUT):
            await transport.write(whole_response(problem))
            await transport.linger()
    finally:
        await anyio.aclose_forcefully(stream)
