"""The HTTP server: hypercorn's network-free protocols on an anyio transport of ours, the same on trio and asyncio.

- `bind` and `ssl_context` fail early, before anything of the service has started.
- `HTTPServer` listens, accepts, counts, drains; `overload` answers one connection too many.
- `Connection` is one client: its `Transport` (bytes), its protocol (`H1`, `H2`, with `WebSocketStream`) and its
  `Exchange`s, each one call of the ASGI application with an `Inbox` of what the client sends.

Above it stand the ASGI entry of this package's parent and the runtime; below it, `problem`.
"""

from .asgi import ASGIApp, Message, Receive, Scope, Send
from .http_server import HTTPServer
from .limits import ServerLimits
from .sockets import bind, close_all
from .tls import ssl_context

__all__ = [
    "HTTPServer",
    "ServerLimits",
    "bind",
    "close_all",
    "ssl_context",
    "ASGIApp",
    "Scope",
    "Message",
    "Receive",
    "Send",
]
