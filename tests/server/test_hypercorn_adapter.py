"""What hypercorn's protocols are told of our limits, and what they are lent of the event loop."""

import anyio
import pytest

from definable.server import ServerLimits
from definable.server.hypercorn.adapter import HypercornContext, HypercornEvent, hypercorn_config

pytestmark = pytest.mark.anyio


def test_the_limits_are_hypercorns_and_all_that_it_would_do_by_itself_is_off():
    limits = ServerLimits(max_header_bytes=1_234, max_streams=7, max_message_bytes=99)
    config = hypercorn_config(limits)
    assert (config.h11_max_incomplete_size, config.h2_max_header_list_size) == (1_234, 1_234)
    assert (config.h2_max_concurrent_streams, config.websocket_max_message_size) == (7, 99)
    assert (config.accesslog, config.errorlog, config.include_server_header) == (None, None, False)
    assert config.keep_alive_max_requests > 2**60
    assert config.websocket_ping_interval == 20  # seconds: less than the minute after which proxies drop a connection
    assert hypercorn_config(ServerLimits()) is hypercorn_config(ServerLimits())


async def test_an_event_may_be_cleared_and_set_again():
    event = HypercornEvent()
    for _ in range(2):
        assert not event.is_set()
        async with anyio.create_task_group() as group:
            group.start_soon(event.wait)
            await anyio.wait_all_tasks_blocked()
            await event.set()
        assert event.is_set()
        await event.clear()


async def test_the_clock_is_the_event_loops_and_nothing_ends_by_itself():
    context = HypercornContext()
    before = anyio.current_time()
    await context.sleep(0.01)
    assert before + 0.005 <= context.time() <= anyio.current_time()
    await context.mark_request()
    assert not context.terminate.is_set() and not context.terminated.is_set()
