"""A SOCKS5 proxy over real sockets (RFC 1928, and RFC 1929 for user names), on asyncio and on trio."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteStream

NO_AUTHENTICATION, USER_NAME, NOTHING_ACCEPTED = 0, 2, 0xFF

CONNECT, IPV4, NAME, IPV6 = 1, 1, 3, 4

REFUSED = 5
"""The reply "Connection refused"."""


@dataclass
class SocksProxy:
    """The proxy.

    Args:
        hosts: Where names that only the proxy knows lead to.
        user: Name and password that it wants; None: everybody may use it.
    """

    hosts: Mapping[str, str] = field(default_factory=dict[str, str])
    user: tuple[str, str] | None = None
    url: str = ""
    connected: list[str] = field(default_factory=list[str])
    """`host:port`, as it was asked for."""
    refuses: bool = False
    """Whether no host can be reached."""
    hangs_up: bool = False
    """Whether it closes connections before it says anything."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[SocksProxy, None]:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            who = "" if self.user is None else f"{':'.join(self.user)}@"
            self.url = f"socks5h://{who}127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            tasks.start_soon(listener.serve, self._converse)
            yield self
            tasks.cancel_scope.cancel()

    async def _converse(self, stream: SocketStream) -> None:
        async with stream:
            try:
                if not self.hangs_up:
                    await self._connect(BufferedByteStream(stream))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead, anyio.EndOfStream):
                pass

    async def _connect(self, client: BufferedByteStream) -> None:
        if not await self._let_in(client):
            return
        version, command, _, kind = await client.receive_exactly(4)
        assert (version, command) == (5, CONNECT)
        if kind == NAME:
            host = (await client.receive_exactly((await client.receive_exactly(1))[0])).decode()
        else:
            host = ".".join(map(str, await client.receive_exactly(4)))
        (port,) = struct.unpack(">H", await client.receive_exactly(2))
        self.connected.append(f"{host}:{port}")
        code = REFUSED if self.refuses else 0
        if code:
            await client.send(bytes((5, code, 0, IPV4, 0, 0, 0, 0, 0, 0)))
            return
        async with await anyio.connect_tcp(self.hosts.get(host, host), port) as server:
            await client.send(bytes((5, 0, 0, IPV4, 0, 0, 0, 0, 0, 0)))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_pass_on, client, server)
                await _pass_on(server, client)  # the server is what ends it
                tasks.cancel_scope.cancel()

    async def _let_in(self, client: BufferedByteStream) -> bool:
        version, count = await client.receive_exactly(2)
        assert version == 5
        methods = await client.receive_exactly(count)
        wanted = NO_AUTHENTICATION if self.user is None else USER_NAME
        if wanted not in methods:
            await client.send(bytes((5, NOTHING_ACCEPTED)))
            return False
        await client.send(bytes((5, wanted)))
        if self.user is None:
            return True
        _, length = await client.receive_exactly(2)
        name = await client.receive_exactly(length)
        password = await client.receive_exactly((await client.receive_exactly(1))[0])
        is_known = (name.decode(), password.decode()) == self.user
        await client.send(bytes((1, 0 if is_known else 1)))
        return is_known


async def _pass_on(source: ByteStream, target: ByteStream) -> None:
    try:
        while True:
            await target.send(await source.receive())
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
