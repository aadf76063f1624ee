"""The HTTP server: HTTP/1.1 of our own, hypercorn's network-free protocols for the rest; the same on trio and asyncio.

- `bind` and `ssl_context` fail early, before anything of the service has started.
- `HTTPServer` listens, accepts, counts, drains; at the limit, which `descriptors` knows too, `Evictions` ends who has
  been idle for the longest, and `overload` answers one connection too many.
- `Client` is one client: its TLS handshake, then a connection on a `Transport` (bytes) that ends with a `Farewell`:
  - `HTTP1Connection`, which nearly all requests take: `RequestParser` and `ResponseWriter` (pure), and an
    `HTTP1Exchange`, one call of the ASGI application, after another;
  - `EngineConnection` for HTTP/2 (`H2`) and WebSockets (`H1`, `WebSocketStream`): hypercorn's protocols, and an
    `EngineExchange` with an `Inbox` for each of their streams.

Above it stand the ASGI entry of this package's parent and the runtime; below it, `problem`.
"""

from .limits import ServerLimits, connections_within_descriptors
from .listener import bind, close_all
from .request_cycle import ASGIApp, Message, Receive, Scope, Send
from .server import HTTPServer
from .tls import ssl_context

__all__ = [
    "HTTPServer",
    "ServerLimits",
    "bind",
    "close_all",
    "connections_within_descriptors",
    "ssl_context",
    "ASGIApp",
    "Scope",
    "Message",
    "Receive",
    "Send",
]
