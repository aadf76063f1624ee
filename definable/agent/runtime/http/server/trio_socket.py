"""A connected socket as a byte stream, on trio. Loaded where trio runs only.

`trio.SocketStream` tries a read before it waits for one, which fails after each request: two system calls and an
exception more.
"""

from __future__ import annotations

import socket

import trio
from anyio import ClosedResourceError, EndOfStream
from anyio.abc import ByteStream


class TrioSocket(ByteStream):
    """One connection.

    Args:
        sock: Non-blocking; owned from here on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """The next bytes; raises `EndOfStream` once the peer has closed its side."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self._sock)
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                raise ClosedResourceError from None
            if not data:
                raise EndOfStream
            return data

    async def send(self, item: bytes) -> None:
        """Sends bytes; returns when the system has taken the last of them."""
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await self._writable()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _writable(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self._sock)
        except trio.ClosedResourceError:
            raise ClosedResourceError from None

    async def send_eof(self) -> None:
        """Closes our side."""
        self._sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Closes the connection; whoever waits for it is told."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        await trio.lowlevel.checkpoint()
