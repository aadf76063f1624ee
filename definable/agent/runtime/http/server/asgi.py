"""The ASGI vocabulary (https://asgi.readthedocs.io), as the server and the applications behind it spell it."""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager
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

WHOLE_BODY = "definable.whole_body"
"""An extension of this server's (ASGI, "Extensions"): the request's body, where all of it has come in.

Whoever takes it from here need not call `receive`, which gives it all the same, nor set a time limit for that, which
costs a fifth of a small request.
"""

WHOLE_RESPONSE = "definable.whole_response"
"""An extension of this server's: `send` takes a message of this type, with `status`, `headers` and `body`, for a start
and a body that is all of it."""

UNTIL_HANGUP = "definable.until_hangup"
"""An extension of this server's: a `WatchHangup`, which costs a fraction of a task that reads on."""

WatchHangup: TypeAlias = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""A context within which a function is called if the client hangs up; one at a time."""
