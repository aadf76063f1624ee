"""The queue between a protocol and one application."""

import anyio
import pytest

from definable.server.hypercorn.request_cycle import CAPACITY, ReceiveBuffer

pytestmark = pytest.mark.anyio

BODY = {"type": "http.request", "body": b"x", "more_body": True}
LARGE = {"type": "http.request", "body": b"x" * CAPACITY, "more_body": True}
GONE = {"type": "http.disconnect"}


async def test_messages_come_in_order_and_the_disconnect_last_and_for_ever():
    receive_buffer = ReceiveBuffer()
    await receive_buffer.put(BODY)
    await receive_buffer.put(GONE)
    assert [await receive_buffer.get() for _ in range(3)] == [BODY, GONE, GONE]


async def test_a_put_waits_while_too_much_is_unread():
    receive_buffer = ReceiveBuffer()
    done = anyio.Event()

    async def put():
        await receive_buffer.put(LARGE)
        done.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(put)
        await anyio.wait_all_tasks_blocked()
        assert not done.is_set()
        assert await receive_buffer.get() == LARGE
        with anyio.fail_after(1):
            await done.wait()


async def test_a_disconnect_never_waits_and_frees_whoever_does():
    receive_buffer = ReceiveBuffer()
    with anyio.fail_after(1):
        async with anyio.create_task_group() as tg:
            tg.start_soon(receive_buffer.put, LARGE)
            await anyio.wait_all_tasks_blocked()
            await receive_buffer.put(GONE)
            await receive_buffer.put(LARGE)


async def test_empty_messages_are_bounded_too():
    receive_buffer = ReceiveBuffer()
    empty = {"type": "websocket.receive", "text": "", "bytes": None}
    with anyio.move_on_after(0.1) as scope:
        for _ in range(CAPACITY):
            await receive_buffer.put(empty)
    assert scope.cancelled_caught
