"""An ASGI server for anyio, the same on trio and asyncio: HTTP/1.1, HTTP/2 over TLS, WebSockets.

- `bind` and `ssl_context` fail early, before anything of the service has started.
- `HTTPServer` accepts connections within its `ServerLimits` and drains them.
- `ServerConnection` is one of them: its TLS handshake, then the protocol that its client speaks, on a `Transport`:
  - `HTTP1Connection`, which nearly all requests take: a `RequestParser` and a `ResponseWriter` (pure), and one
    `HTTP1RequestCycle`, a call of the ASGI application, after the other;
  - `HypercornConnection` for HTTP/2 and WebSockets: hypercorn's network-free protocols, and a `HypercornRequestCycle`
    for each of their streams.

It stands on `definable.concurrency` and `definable.errors` alone.
"""

from .limits import ServerLimits, connections_within_descriptors
from .listener import bind, close_all, ssl_context
from .request_cycle import ASGIApp, Message, Receive, Scope, Send
from .server import HTTPServer

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
