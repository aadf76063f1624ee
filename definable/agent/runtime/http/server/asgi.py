"""The ASGI vocabulary (https://asgi.readthedocs.io), as the server and the applications behind it spell it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
"""What one request or WebSocket is: its type, method, path, headers and so on."""

Message: TypeAlias = MutableMapping[str, Any]
"""One ASGI event, named by its `type`."""

Receive: TypeAlias = Callable[[], Awaitable[Message]]
"""Waits for the client's next message."""

Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Sends a message to the client; waits while the client is slower than the application."""

ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application."""
