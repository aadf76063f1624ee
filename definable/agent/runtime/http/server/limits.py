"""What one client, and all of them together, may take from the server; read by the listener and the connections."""

from dataclasses import dataclass, fields

from definable.errors import ConfigurationError


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
