"""An ASGI server for anyio, the same on trio and asyncio: HTTP/1.1, HTTP/2 over TLS, WebSockets.

- `bind`, `bind_unix`, `inherited`, `activated_sockets` and `CertificateFiles` fail early, before anything of the
  service has started.
- `HTTPServer` accepts connections within its `ServerLimits` and drains them.
- `ServerConnection` is one of them: its TLS handshake, then the protocol that its client speaks, on a `Transport`:
  - `HTTP1Connection`, which nearly all requests take: a `RequestParser` and a `ResponseWriter` (pure), and one
    `HTTP1RequestCycle`, a call of the ASGI application, after the other;
  - `HypercornConnection` for HTTP/2 and WebSockets: hypercorn's network-free protocols, and a `HypercornRequestCycle`
    for each of their streams.

It stands on `definable.concurrency` and `definable.errors` alone.
"""

from .limits import ServerLimits, connections_within_descriptors
from .listener import Address, BoundAddress, bind, bind_unix, close_all, inherited, listen
from .request_cycle import ASGIApp, Message, Receive, Scope, Send
from .server import HTTPServer
from .systemd import activated_sockets, notify
from .tls import CertificateFiles, ssl_context

__all__ = [
    "HTTPServer",
    "ServerLimits",
    "Address",
    "CertificateFiles",
    "BoundAddress",
    "activated_sockets",
    "bind",
    "bind_unix",
    "close_all",
    "connections_within_descriptors",
    "inherited",
    "listen",
    "notify",
    "ssl_context",
    "ASGIApp",
    "Scope",
    "Message",
    "Receive",
    "Send",
]
