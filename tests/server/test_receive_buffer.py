"""The queue between a protocol and one application."""

import anyio
import pytest

from definable.server.hypercorn.request_cycle import CAPACITY, Inbox

pytestmark = pytest.mark.anyio

BODY = {"type": "http.request", "body": b"x", "more_body": True}
LARGE = {"type": "http.request", "body": b"x" * CAPACITY, "more_body": True}
GONE = {"type": "http.disconnect"}


async def test_messages_come_in_order_and_the_disconnect_last_and_for_ever():
    inbox = Inbox()
    await inbox.put(BODY)
    await inbox.put(GONE)
    assert [await inbox.get() for _ in range(3)] == [BODY, GONE, GONE]


async def test_a_put_waits_while_too_much_is_unread():
    inbox = Inbox()
    done = anyio.Event()

    async def put():
        await inbox.put(LARGE)
        done.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(put)
        await anyio.wait_all_tasks_blocked()
        assert not done.is_set()
        assert await inbox.get() == LARGE
        with anyio.fail_after(1):
            await done.wait()


async def test_a_disconnect_never_waits_and_frees_whoever_does():
    inbox = Inbox()
    with anyio.fail_after(1):
        async with anyio.create_task_group() as tg:
            tg.start_soon(inbox.put, LARGE)
            await anyio.wait_all_tasks_blocked()
            await inbox.put(GONE)
            await inbox.put(LARGE)


async def test_empty_messages_are_bounded_too():
    inbox = Inbox()
    empty = {"type": "websocket.receive", "text": "", "bytes": None}
    with anyio.move_on_after(0.1) as scope:
        for _ in range(CAPACITY):
            await inbox.put(empty)
    assert scope.cancelled_caught
