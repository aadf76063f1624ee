"""Accepted sockets as streams: one contract for both event loops, and for trio where the system has no epoll."""

import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain

import anyio
import anyio.lowlevel
import pytest
from anyio import ClosedResourceError, EndOfStream

from definable.server import trio_stream
from definable.server.listener import streams
from definable.server.transport import READ_SIZE, ClientStream, DisconnectWatch

pytestmark = pytest.mark.anyio

LARGE = b"x" * 8_000_000
"""More than the system takes at once."""

TIMEOUT = 10.0
"""Seconds after which a hanging test is a failed one."""


@dataclass
class Pair:
    """An accepted client as a stream, and its peer."""

    stream: ClientStream
    peer: socket.socket

    def reset(self) -> None:
        """The peer is gone without a lingering_close."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()


@asynccontextmanager
async def connected() -> AsyncGenerator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(TIMEOUT):
        with socket.create_connection(listener.getsockname()) as peer:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            opened = streams()
            async with anyio.create_task_group() as group:
                group.start_soon(opened.run)
                stream = await opened.open(accepted)
                try:
                    yield Pair(stream, peer)
                finally:
                    with anyio.CancelScope(shield=True):
                        await stream.aclose()
                    group.cancel_scope.cancel()


@pytest.fixture(params=["asyncio", "trio", "trio without epoll"])
def anyio_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    backend, _, without = request.param.partition(" ")
    monkeypatch.setattr(trio_stream, "HAS_EPOLL", trio_stream.HAS_EPOLL and not without)
    return backend


async def read(stream: ClientStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive()
    return data


async def test_what_the_peer_sends_comes_in_before_and_while_it_is_waited_for():
    async with connected() as pair:
        for number in range(3):
            pair.peer.sendall(b"early %d" % number)
            assert await read(pair.stream, 7) == b"early %d" % number
            async with anyio.create_task_group() as group:
                got: list[bytes] = []

                async def wait(got: list[bytes] = got) -> None:
                    got.append(await pair.stream.receive())

                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                pair.peer.sendall(b"late")
            assert got == [b"late"]


async def test_bytes_and_the_end_that_come_at_once_are_both_told():
    async with connected() as pair:
        pair.peer.sendall(b"last words")
        pair.peer.close()
        assert await read(pair.stream, 10) == b"last words"
        with pytest.raises(EndOfStream):
            await pair.stream.receive()
        with pytest.raises(EndOfStream):
            await pair.stream.receive()


async def test_more_than_one_read_takes_comes_in_whole():
    whole = bytes(range(256)) * 4_000
    async with connected() as pair:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, pair.peer.sendall, whole)
            assert await read(pair.stream, len(whole)) == whole


async def test_reads_of_a_few_bytes_lose_none():
    async with connected() as pair:
        pair.peer.sendall(b"0123456789")
        assert [await pair.stream.receive(4) for _ in range(3)] == [b"0123", b"4567", b"89"]


async def test_who_has_read_all_that_there_was_waits_and_costs_nothing():
    async with connected() as pair:
        pair.peer.sendall(b"0123")
        assert await pair.stream.receive(4) == b"0123"
        async with anyio.create_task_group() as group:
            got: list[bytes] = []

            async def wait() -> None:
                got.append(await pair.stream.receive(4))

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()  # a reader that asks again and again is never blocked
            pair.peer.sendall(b"4567")
        assert got == [b"4567"]


async def test_a_reader_that_gave_up_can_read_again():
    async with connected() as pair:
        with anyio.move_on_after(0):
            await pair.stream.receive()
        pair.peer.sendall(b"again")
        assert await read(pair.stream, 5) == b"again"


@pytest.mark.parametrize("wait", [lambda stream: stream.receive(), lambda stream: stream.send(LARGE)])
async def test_closing_tells_whoever_waits_and_whoever_reads_later(
    wait: Callable[[ClientStream], Awaitable[object]],
):
    async with connected() as pair:
        failures: list[Exception] = []

        async def use() -> None:
            try:
                await wait(pair.stream)
            except Exception as failure:
                failures.append(failure)

        async with anyio.create_task_group() as group:
            group.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            await pair.stream.aclose()
        assert [type(failure) for failure in failures] == [ClosedResourceError]
        with pytest.raises(ClosedResourceError):
            await pair.stream.receive()


async def test_each_side_may_end_before_the_other():
    async with connected() as pair:
        await pair.stream.send(b"question")
        await pair.stream.send_eof()
        assert (pair.peer.recv(100), pair.peer.recv(100)) == (b"question", b"")
        pair.peer.sendall(b"answer")
        pair.peer.shutdown(socket.SHUT_WR)
        assert await read(pair.stream, 6) == b"answer"
        with pytest.raises(EndOfStream):
            await pair.stream.receive()


async def test_a_reset_is_an_error_and_no_hang():
    async with connected() as pair:
        pair.reset()
        with pytest.raises((OSError, anyio.BrokenResourceError)):
            await pair.stream.receive()


async def test_a_full_peer_holds_up_the_sender_until_it_reads():
    async with connected() as pair:
        async with anyio.create_task_group() as group:
            group.start_soon(pair.stream.send, LARGE)
            received = 0
            while received < len(LARGE):
                received += len(await anyio.to_thread.run_sync(pair.peer.recv, 1_000_000))
        assert received == len(LARGE)


@pytest.mark.parametrize("goes", ["closes its side", "closes", "resets"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_hangup_is_told_once_without_a_read(when: str, goes: str, request: pytest.FixtureRequest):
    async with connected() as pair:
        assert pair.stream.detects_disconnects == ("without epoll" not in request.node.name)
        if not pair.stream.detects_disconnects:
            return
        told = anyio.Event()
        times: list[None] = []

        def tell() -> None:
            times.append(None)
            told.set()

        def hang_up() -> None:
            if goes == "closes its side":
                pair.peer.shutdown(socket.SHUT_WR)
            elif goes == "closes":
                pair.peer.close()
            else:
                pair.reset()

        pair.peer.sendall(b"unread")
        if when == "before":
            hang_up()
            await anyio.wait_all_tasks_blocked()
        with DisconnectWatch(pair.stream, tell):
            if when == "meanwhile":
                hang_up()
            await told.wait()
            await anyio.wait_all_tasks_blocked()
        assert times == [None]


async def test_who_only_sends_more_has_not_hung_up():
    async with connected() as pair:
        told: list[None] = []
        with DisconnectWatch(pair.stream, lambda: told.append(None)):
            for _ in range(2):
                pair.peer.sendall(b"more")
                assert await read(pair.stream, 4) == b"more"
                await anyio.wait_all_tasks_blocked()
        assert told == []


async def test_a_hangup_after_the_context_is_not_told():
    async with connected() as pair:
        told: list[None] = []
        with DisconnectWatch(pair.stream, lambda: told.append(None)):
            await anyio.wait_all_tasks_blocked()
        pair.peer.shutdown(socket.SHUT_WR)
        with pytest.raises(EndOfStream):
            await pair.stream.receive()
        assert told == []


async def test_whoever_sends_little_does_not_wait_for_all_who_send_much() -> None:
    opened, count = streams(), 50
    with ExitStack() as sockets, anyio.fail_after(TIMEOUT):
        pairs = [tuple(map(sockets.enter_context, socket.socketpair())) for _ in range(count + 1)]
        for each in chain.from_iterable(pairs):
            each.setblocking(False)
        received: Counter[int] = Counter()

        async def read_on(number: int, stream: ClientStream, peer: socket.socket) -> None:
            while True:
                await anyio.lowlevel.checkpoint()
                peer.send(bytes(READ_SIZE))
                received[number] += len(await stream.receive())

        async with anyio.create_task_group() as group:
            group.start_soon(opened.run)
            small, *large = [await opened.open(ours) for ours, _ in pairs]
            small_peer, *large_peers = [peer for _, peer in pairs]
            async with anyio.create_task_group() as readers:
                for number, (stream, peer) in enumerate(zip(large, large_peers, strict=True)):
                    peer.send(bytes(READ_SIZE))  # so that always more than one read waits
                    readers.start_soon(read_on, number, stream, peer)
                for _ in range(10):
                    while received.total() < count * READ_SIZE:
                        await anyio.lowlevel.checkpoint()
                    received.clear()
                    small_peer.send(b"x")
                    assert await small.receive() == b"x"
                    assert received.total() / READ_SIZE < count
                while any(received[number] < READ_SIZE for number in range(count)):  # and none of them waits for ever
                    await anyio.lowlevel.checkpoint()
                readers.cancel_scope.cancel()
            for stream in (small, *large):
                await stream.aclose()
            group.cancel_scope.cancel()
