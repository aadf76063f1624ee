"""What a watching parent and its child tell each other, over a pair of sockets in one process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import anyio
import pytest

from definable.agent.runtime.dev.child import ENVIRONMENT, Inheritance, MessageReader, send_message

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="reloading needs POSIX")]

LIMIT = 10.0
"""Seconds that a test may hang."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The parent's and the child's."""
    parent, child = socket.socketpair()
    parent.setblocking(False)
    with parent, child:
        yield parent, child


def test_a_child_finds_what_it_was_left_and_its_own_children_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Inheritance.find() is None
    left = Inheritance(os.getppid(), 7, ("127.0.0.1", 8000), (8, 9))
    monkeypatch.setenv(ENVIRONMENT, left.environment()[ENVIRONMENT])
    assert Inheritance.find() == left
    for another in (os.getppid() - 1, os.getppid() + 1):  # its parent's parent, say
        monkeypatch.setenv(ENVIRONMENT, Inheritance(another, 7).environment()[ENVIRONMENT])
        assert Inheritance.find() is None


async def test_messages_come_whole_however_they_are_cut(ends: tuple[socket.socket, socket.socket]) -> None:
    parent, child = ends
    reader, heard = MessageReader(parent), list[object]()

    async def listen() -> None:
        while (message := await reader.next()) is not None:
            heard.append(message)

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            for piece in (b'{"event": "be', b'gun"}\n{"event": "serving"}\n{"event"', b': "ended"}\n'):
                child.sendall(piece)
                await anyio.wait_all_tasks_blocked()
            child.close()
    assert heard == [{"event": "begun"}, {"event": "serving"}, {"event": "ended"}]


async def test_sockets_come_along_and_what_nobody_takes_is_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    parent, child = ends
    reader = MessageReader(parent)
    with socket.create_server(("127.0.0.1", 0)) as listening, anyio.fail_after(LIMIT):
        for _ in range(2):
            send_message(child, {"event": "bound"}, [listening])
        address = listening.getsockname()
        assert await reader.next() == {"event": "bound"}
        for sock in reader.take_sockets():
            with sock:
                assert sock.getsockname() == address
        assert await reader.next() == {"event": "bound"}
    reader.close()
    assert reader.take_sockets() == []
    with pytest.raises(ConnectionRefusedError), socket.create_connection(address):
        pass


async def test_16_sockets_come_along_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    parent, child = ends
    reader = MessageReader(parent)
    with socket.create_server(("127.0.0.1", 0)) as listening, anyio.fail_after(LIMIT):
        send_message(child, {"event": "bound"}, [listening] * 16)
        assert await reader.next() == {"event": "bound"}
        taken = reader.take_sockets()
        for sock in taken:
            with sock:
                assert sock.getsockname() == listening.getsockname()
    assert len(taken) == 16


async def test_an_end_that_breaks_is_an_end(ends: tuple[socket.socket, socket.socket]) -> None:
    parent, child = ends
    parent.send(b"never read")  # so that the close resets the connection
    child.close()
    with anyio.fail_after(LIMIT):
        assert await MessageReader(parent).next() is None


def test_a_parent_that_is_gone_is_no_error(ends: tuple[socket.socket, socket.socket]) -> None:
    parent, child = ends
    parent.close()
    send_message(child, {"event": "serving"})
