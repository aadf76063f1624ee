"""What a connection reads and writes last, over a real socket."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from definable.server.listener import streams
from definable.server.transport import MAX_LINGER, Transport

pytestmark = pytest.mark.anyio

TIME_LIMIT = 20.0
"""Seconds after which a hanging test is a failed one."""

WRITE_TIMEOUT = 0.2
"""Seconds."""

LARGE = b"x" * 8_000_000
"""More than the system takes at once."""


@asynccontextmanager
async def connected(*, direct: bool = False) -> AsyncGenerator[tuple[Transport, socket.socket]]:
    """A transport and its peer; `direct` lets bytes go into the socket as they are."""
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(TIME_LIMIT):
        with socket.create_connection(listener.getsockname()) as peer:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            opened = streams()
            async with anyio.create_task_group() as group:
                group.start_soon(opened.run)
                transport = Transport(await opened.open(accepted), WRITE_TIMEOUT, accepted if direct else None)
                try:
                    yield transport, peer
                finally:
                    await transport.aclose()
                    group.cancel_scope.cancel()


async def test_a_client_that_was_answered_may_send_32_mib_more():
    assert MAX_LINGER == 32 * 1024 * 1024
    ended: list[None] = []
    async with connected() as (transport, peer), anyio.create_task_group() as group:

        async def linger() -> None:
            await transport.linger()
            ended.append(None)

        group.start_soon(linger)
        for _ in range(31):
            await anyio.to_thread.run_sync(peer.sendall, b"x" * 1024 * 1024)
        await anyio.to_thread.run_sync(peer.sendall, b"x" * (1024 * 1024 - 1))
        while peer_has_unread(peer):
            await anyio.sleep(0.005)
        await anyio.wait_all_tasks_blocked()
        assert ended == []
        peer.sendall(b"x")
    assert ended == [None]


def peer_has_unread(peer: socket.socket) -> bool:
    """Whether the system still holds some of what a peer has sent."""
    import fcntl
    import struct
    import termios

    (waiting,) = struct.unpack("i", fcntl.ioctl(peer, termios.TIOCOUTQ, b"\0" * 4))
    return waiting > 0


@pytest.mark.parametrize("direct", [False, True])
async def test_what_is_written_within_a_cork_goes_out_with_the_flush(direct: bool):
    async with connected(direct=direct) as (transport, peer):
        peer.setblocking(False)
        with transport.corked():
            with transport.corked():
                await transport.write(b"one ")
            await transport.write(b"two ")
        assert transport.writing
        with pytest.raises(BlockingIOError):
            peer.recv(100)
        await transport.flush()
        assert peer.recv(100) == b"one two "
        assert not transport.writing
        await transport.write(b"three")
        assert peer.recv(100) == b"three"


@pytest.mark.parametrize("direct", [False, True])
async def test_writes_of_several_tasks_arrive_in_their_order(direct: bool):
    async with connected(direct=direct) as (transport, peer), anyio.create_task_group() as group:
        group.start_soon(transport.write, LARGE)
        await anyio.wait_all_tasks_blocked()
        assert transport.writing
        group.start_soon(transport.write, b"last")
        received = b""
        while len(received) < len(LARGE) + 4:
            received += await anyio.to_thread.run_sync(peer.recv, 1_000_000)
        assert received.endswith(b"xlast")
        assert received.count(b"x") == len(LARGE)


async def test_a_peer_that_reads_slowly_has_its_time_for_each_64_kib():
    async with connected() as (transport, peer), anyio.create_task_group() as group:
        group.start_soon(transport.write, LARGE)
        received = 0
        began = anyio.current_time()
        while received < len(LARGE):
            received += len(await anyio.to_thread.run_sync(peer.recv, 400_000))
            await anyio.sleep(WRITE_TIMEOUT / 10)
        assert anyio.current_time() - began > WRITE_TIMEOUT
        assert not transport.broken


async def test_bytes_are_handed_on_by_64_kib_each_with_its_time():
    handed: list[int] = []
    async with connected() as (transport, peer):
        send = transport._stream.send

        async def hand(item: bytes) -> None:
            handed.append(len(item))
            await send(item)

        transport._stream.send = hand  # type: ignore[method-assign]
        await transport.write(b"x" * 150_000)
        received = b""
        while len(received) < 150_000:
            received += peer.recv(1_000_000)
    assert handed == [65_536, 65_536, 150_000 - 2 * 65_536]
    assert received == b"x" * 150_000


async def test_a_peer_that_reads_nothing_breaks_its_connection_and_nothing_is_written_any_more():
    flushed: list[bool] = []
    async with connected() as (transport, peer):
        transport.flushed = lambda: flushed.append(transport.broken)
        await transport.write(LARGE)
        assert transport.broken
        await transport.write(b"more")
        await transport.linger()
        assert flushed == [True, True]
        assert not transport.writing
        assert peer.recv(1) == b"x"
