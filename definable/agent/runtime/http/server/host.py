"""What a protocol asks of the connection it serves: the seam between parsing and everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from .asgi import Message, Scope
from .websocket_message import MessageMemory

AppSend = Callable[[Message | None], Awaitable[None]]
"""Takes one application's messages into the protocol; None says that the application has ended."""


class Wait(NamedTuple):
    """A connection's wait for the head of a request; the lesser of two is the more futile one."""

    has_begun: bool
    """Whether some of the head has come."""
    since: float
    """On the event loop's clock."""
    is_first: bool
    """Whether there was no request on this connection before."""


class Host(Protocol):
    """A connection, as its protocol sees it."""

    @property
    def draining(self) -> bool:
        """Whether this connection must end with the exchange in progress."""
        ...

    @property
    def messages(self) -> MessageMemory:
        """What the messages of all WebSockets take."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends bytes to the client."""
        ...

    async def ended(self) -> None:
        """The protocol is done with this connection, once what was written has arrived."""
        ...

    async def idled(self, idle: bool) -> None:
        """An exchange has begun (`idle` is false) or the last one has ended."""
        ...

    def start_exchange(self, scope: Scope, send: AppSend) -> Callable[[Message], Awaitable[None]]:
        """Calls the application; returns where its incoming messages go."""
        ...

    def start_background(self, func: Callable[..., Awaitable[object]], *args: object) -> None:
        """Runs a task of the protocol until the connection's exchanges have ended."""
        ...


class HTTPProtocol(Protocol):
    """Bytes in, exchanges out: one per connection."""

    async def open(self) -> None:
        """Begins; HTTP/2 sends its settings."""
        ...

    async def data(self, data: bytes) -> None:
        """Takes bytes from the client; waits while an application is slower than they come."""
        ...

    async def disconnected(self) -> None:
        """The client is gone: the applications that still run are told so."""
        ...

    async def head_timed_out(self) -> None:
        """A request head came too slowly; answers 408 if it had begun."""
        ...

    @property
    def head_begun(self) -> bool:
        """Whether the first bytes of a request head wait for the rest."""
        ...
