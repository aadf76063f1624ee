"""What one connection may hold, and take of the event loop, on asyncio."""

from __future__ import annotations

import socket

import anyio
import pytest

from definable.server.asyncio_stream import AsyncioStreams
from definable.server.transport import READ_SIZE

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

SENT = bytes(range(256)) * 4_096


async def test_a_peer_that_sends_ahead_is_read_one_buffer_at_a_time() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    received = b""
    with theirs, anyio.fail_after(5):
        stream = await AsyncioStreams().open(ours)
        async with anyio.create_task_group() as peer:
            peer.start_soon(anyio.to_thread.run_sync, theirs.sendall, SENT)
            while len(received) < len(SENT):
                await anyio.wait_all_tasks_blocked()
                waiting = len(stream._received)  # pyright: ignore[reportPrivateUsage] - nothing else shows it
                assert waiting < 2 * READ_SIZE
                received += await stream.receive(50_000)
        await stream.aclose()
    assert received == SENT
