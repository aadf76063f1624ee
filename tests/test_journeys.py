"""A piece of work passes few files on its way through the house: `journeys.py` records the way, here is its bound."""

from collections.abc import Awaitable, Callable

import pytest
from journeys import Walk, chat, event, webhook
from loopback.redis import RedisServer

pytestmark = pytest.mark.anyio

TRIES = 3
"""The shortest walk counts: a timer that fires meanwhile is not on the way."""

MOST_FILES = {"webhook": 35, "event": 25, "chat": 54}
"""Wanted: 25, 12 and 30. A change that shortens a journey lowers its bound. A message was 47 files while a package that
lost text read its Markdown, and 50 while it was neither collected nor stopped and commands waited in a queue. That of
an event was 24 while the engine was one file of a thousand lines."""


async def shortest(journey: Callable[[], Awaitable[Walk]], bound: int) -> list[str]:
    """The files of the first walk within the bound, else of the shortest."""
    best: list[str] = []
    for _ in range(TRIES):
        files = (await journey()).files
        if not best or len(files) < len(best):
            best = files
        if len(best) <= bound:
            break
    return best


async def test_a_webhook_that_has_the_agent_run() -> None:
    files = await shortest(webhook, MOST_FILES["webhook"])
    assert len(files) <= MOST_FILES["webhook"], files
    assert {"server/http1_parser.py", "agent/run/runner.py", "agent/runtime/http/app.py"} <= {*files}


async def test_an_event_over_redis(redis: RedisServer) -> None:
    files = await shortest(lambda: event(redis.url), MOST_FILES["event"])
    assert len(files) <= MOST_FILES["event"], files
    assert {"agent/agent.py", "agent/runtime/workers.py"} <= {*files}


async def test_a_message_on_telegram() -> None:
    files = await shortest(chat, MOST_FILES["chat"])
    assert len(files) <= MOST_FILES["chat"], files
    assert {"agent/interface/telegram/poller.py", "agent/run/runner.py"} <= {*files}
