"""What waits for a trigger finds it again in the next version of the service."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent

pytestmark = pytest.mark.anyio


async def hold(event: TriggerEvent) -> None:
    await anyio.sleep_forever()


def agent_at(path: Path) -> Agent:
    return Agent("offline", bus=SQLiteBus(path))


async def left_behind(agent: Agent, *names: str) -> None:
    """Have events wait in the file, for a handler that is busy."""
    async with agent.running(enable_server=False, event_workers=1, shutdown_timeout=0.1):
        for name in names:
            await agent.aemit(name)


async def test_a_handler_that_was_renamed_gets_what_waits_for_it(tmp_path: Path) -> None:
    before = agent_at(tmp_path / "events.db")
    before.on(EventTrigger("order"))(hold)
    await left_behind(before, "order", "order")

    seen: list[TriggerEvent] = []
    after = agent_at(tmp_path / "events.db")
    after.on(EventTrigger("order"))(seen.append)
    async with after.running(enable_server=False):
        pass
    assert len(seen) == 2


async def test_triggers_of_a_loop_get_their_own_whatever_the_order(tmp_path: Path) -> None:
    seen: list[str] = []
    held = {"b"}

    async def note(event: TriggerEvent, user: str) -> None:
        seen.append(user)
        if user in held:
            await anyio.sleep_forever()

    def agent(users: str) -> Agent:
        made = agent_at(tmp_path / "events.db")
        for user in users:
            made.on(EventTrigger("order"))(partial(note, user=user))
        return made

    await left_behind(agent("bac"), "order")
    assert seen == ["b"]  # its attempt was cut off, and the others wait behind it
    held.clear()
    async with agent("cab").running(enable_server=False, event_workers=1):
        pass
    assert seen == ["b", "b", "a", "c"]


async def test_the_start_warns_of_triggers_that_cannot_be_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")
    for number in range(3):
        agent.on(EventTrigger("x"))(hold)
        agent.on(EventTrigger("y", name=f"y{number}"))(hold)
    async with agent.running(enable_server=False):
        pass
    assert "3 triggers cannot be told apart (3 of event(x))" in caplog.text
