"""What one client, and all of them together, may take from the server; read by the listener and the connections.

File descriptors: how many connections they allow, with a reserve for what the service opens itself. Unix alone.

Where the system lets it, the soft limit (1,024 under systemd and in most shells, for the sake of programs that use
select(2)) is raised to what the connections need; the hard one is the administrator's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

from definable.errors import ConfigurationError

RESERVE = 64
"""Descriptors for listeners, the event loop, files, stores and connections that are being turned away."""

MOST_RESERVED = 1_536
"""Descriptors for models and stores at most: a model's client has 1,000 connections, a store's some dozens."""


def connections_within_descriptors(wanted: int) -> int:
    """How many connections may be open at once; raises the soft limit of descriptors if that is what is missing.

    Each may be a run that waits for a model, whose own connection needs a descriptor too, and a store's perhaps. So
    these get half of what there is, or as many as they ever need: a crowd of clients then costs no run its model.

    Args:
        wanted: Connections that the service is asked to take.

    Returns:
        As many, or fewer where the hard limit allows no more.
    """
    limit = _raised_limit(RESERVE + wanted + min(wanted, MOST_RESERVED))
    if limit is None:
        return wanted
    reserved = RESERVE + min((limit - RESERVE) // 2, MOST_RESERVED)
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
