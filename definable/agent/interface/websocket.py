"""A WebSocket client on whichever backend runs, for platforms that speak over one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio

from definable.concurrency.event_loop import current_backend
from definable.concurrency.logs import logger_named
from definable.errors import MissingExtra

from .errors import InterfaceConnectionError
from .http_client import Proxies

try:
    # websockets has a connection of its own for each backend, on one protocol engine.
    from websockets.asyncio.client import ClientConnection as AsyncioConnection
    from websockets.asyncio.client import connect as connect_on_asyncio
    from websockets.exceptions import ConnectionClosed
    from websockets.protocol import State
    from websockets.trio.client import ClientConnection as TrioConnection
    from websockets.trio.client import connect as connect_on_trio
except ImportError as _missing:
    raise MissingExtra(
        "WebSocket connections need websockets: pip install 'definable[discord]' or 'definable[slack]'"
    ) from _missing

HANDSHAKE_TIMEOUT = 1.0
"""Seconds for the peer to answer our close."""

CLOSE_TIMEOUT = 2.0
"""Seconds until the connection is cut, whatever became of the close: a peer may have stopped reading."""

MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes of one message from the gateway; descriptions of large servers run to megabytes."""


class SocketClosed(Exception):
    """The connection is over.

    Args:
        code: The peer's close code; None where it broke without.
        reason: What the peer said to it.
    """

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(f"closed with {code}" if code is not None else "broken")
        self.code = code
        self.reason = reason


class WebSocket(Protocol):
    """An open connection."""

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            SocketClosed: There is none.
        """
        ...

    async def send(self, text: str) -> None:
        """Send a message.

        Raises:
            SocketClosed: It cannot be sent any more.
        """
        ...

    async def ping(self) -> None:
        """Ask the peer for a sign of life, and return when it has come.

        Raises:
            SocketClosed: None will come any more.
        """
        ...


class _QuietLogger(logging.LoggerAdapter[logging.Logger]):
    """websockets logs every frame at debug level, and the one that identifies the bot bears its token."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)


_logger = _QuietLogger(logger_named(__name__), {})


@asynccontextmanager
async def open_websocket(
    url: str, timeout: float, close_code: int = 1000, proxy: str | None = None
) -> AsyncGenerator[WebSocket]:
    """A connection while the context is open; it ends within a bound.

    Args:
        url: `ws://` or `wss://`.
        timeout: Seconds to connect in.
        close_code: What it is closed with.
        proxy: What it goes through; None: what the environment says, as of HTTP.

    Raises:
        InterfaceConnectionError: The server cannot be reached, or does not speak WebSocket there.
        ConfigurationError: There is no such proxy, or a SOCKS proxy, and the extra `socks` is not installed.
    """
    address = urlsplit(url)
    through = Proxies(proxy).address(address.scheme, address.hostname or "")
    if through is not None and through.startswith("socks") and find_spec("python_socks") is None:
        raise MissingExtra("a SOCKS proxy needs python-socks: pip install 'definable[socks]'")
    connect: Any = connect_on_trio if current_backend() == "trio" else connect_on_asyncio
    settings: dict[str, Any] = {
        "open_timeout": timeout,
        "close_timeout": HANDSHAKE_TIMEOUT,
        "ping_interval": None,  # the gateway has heartbeats of its own
        "compression": None,
        "max_size": MAX_PAYLOAD,
        # A connection that has stopped reading, since its queue is full, is not closed in time, on trio never (17.4):
        # https://github.com/python-websockets/websockets/issues/1555. What a peer sends unread is bounded by its
        # platform's heartbeats: one that is not acknowledged ends the connection.
        "max_queue": None,
        "logger": _logger,
        "proxy": through,
    }
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(connect(url, **settings))
        except Exception as error:  # trio has its own for a failed TLS handshake, websockets for half a dozen others
            where = url.partition("?")[0]  # Slack's query is a ticket, which opens a socket
            raise InterfaceConnectionError(f"no WebSocket at {where}: {str(error) or type(error).__name__}") from error
        stack.push_async_callback(_close, connection, close_code)
        yield _Connected(connection)


class _Connected:
    def __init__(self, connection: TrioConnection | AsyncioConnection) -> None:
        self._connection = connection

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def ping(self) -> None:
        connection = self._connection
        try:
            if isinstance(connection, TrioConnection):
                await (await connection.ping(ack_on_close=True)).wait()
                if connection.state is not State.OPEN:
                    raise SocketClosed(None)
            else:
                await (await connection.ping())
        except ConnectionClosed as closed:
            raise _closed(closed) from None


def _closed(closed: ConnectionClosed) -> SocketClosed:
    return SocketClosed(None) if closed.rcvd is None else SocketClosed(closed.rcvd.code, closed.rcvd.reason)


async def _close(connection: TrioConnection | AsyncioConnection, code: int) -> None:
    # Shielded: on asyncio a cancelled close would leave the transport open, on either a session that could be resumed
    # would look like one that is over.
    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
        if isinstance(connection, TrioConnection):
            await connection.aclose(code)  # cuts the stream by itself when it is cancelled
        else:
            await connection.close(code)
    if not isinstance(connection, TrioConnection):
        connection.transport.abort()
        with anyio.move_on_after(HANDSHAKE_TIMEOUT, shield=True):  # aborted: the loop reports it in its next iteration
            await connection.wait_closed()
