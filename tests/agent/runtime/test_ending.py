"""When serving ends by itself: nothing is left to serve, or a task that it cannot do without has ended."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.interface import (
    Accept,
    BaseInterface,
    InterfaceAuthenticationError,
    InterfaceConfig,
    InterfaceMessage,
    InterfaceResponse,
)
from definable.agent.runtime import AgentRuntime
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent
from definable.errors import ServeError

pytestmark = pytest.mark.anyio

LIMIT = 10.0


class Lines(BaseInterface):
    """Brings some lines and returns, as one that reads a file does; or its platform refuses it."""

    def __init__(self, name: str = "lines", *, refused: bool = False, waits: bool = False) -> None:
        super().__init__(InterfaceConfig(collect=0, platform=name))
        self.answers: list[str] = []
        self._refused = refused
        self._waits = waits

    async def receive(self, accept: Accept) -> None:
        if self._refused:
            raise InterfaceAuthenticationError("the token is refused")
        for number in range(3):
            await accept(InterfaceMessage(self.name, "me", "here", str(number), text=f"line {number}"))
        if self._waits:
            await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.answers.append(response.content)


async def test_it_ends_when_its_last_interface_has_returned_and_all_is_answered() -> None:
    lines = Lines()
    with anyio.fail_after(LIMIT):
        report = await Agent("offline").aserve(lines, handle_signals=False)
    assert lines.answers == ["line 0", "line 1", "line 2"]
    assert report.clean and report.sources["lines"].completed == 3


async def test_it_fails_when_its_last_interface_has_failed_for_good() -> None:
    with anyio.fail_after(LIMIT), pytest.raises(ServeError, match=r"lines has failed for good.*the token is refused"):
        await Agent("offline").aserve(Lines(refused=True), handle_signals=False)


@pytest.mark.parametrize("what", ["server", "cron", "event", "interface"])
async def test_it_goes_on_while_anything_is_left(what: str) -> None:
    agent = Agent("offline")
    if what in ("cron", "event"):

        @agent.on(Cron("0 0 1 1 *") if what == "cron" else EventTrigger("x"))
        async def handle(event: TriggerEvent) -> None: ...

    interfaces: list[BaseInterface] = [Lines(), *([Lines("other", waits=True)] if what == "interface" else [])]
    options: dict[str, Any] = {"enable_server": True, "host": "127.0.0.1", "port": 0} if what == "server" else {}
    runtime: AgentRuntime | None = None
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:

            async def start() -> None:
                await agent.aserve(*interfaces, handle_signals=False, **options)

            group.start_soon(start)
            while (runtime := agent.runtime) is None or not runtime.supervisors[0].received.is_set():
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert not runtime.draining
            runtime.stop()


async def test_it_says_at_once_that_there_is_nothing_to_run(caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(LIMIT):
        report = await Agent("offline").aserve(enable_server=False, handle_signals=False)
    assert report.clean
    assert "nothing to run" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("child", ["the event workers", "the HTTP server", "the cron loop"])
async def test_a_child_that_a_stray_cancellation_ends_ends_serving_with_an_error(
    child: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As an `asyncio.timeout` that was left open does: anyio would end the whole group without a word."""
    caplog.set_level(logging.INFO, "definable")
    agent = Agent("offline")

    @agent.on(Cron("0 0 1 1 *"))
    async def handle(event: TriggerEvent) -> None: ...

    names = {"the event workers": "_work", "the HTTP server": "_accept", "the cron loop": "CronLoop.run"}
    with anyio.fail_after(LIMIT), pytest.raises(ServeError, match=child):
        async with agent.running(host="127.0.0.1", port=0, enable_server=True):
            for task in asyncio.all_tasks():
                if names[child] in repr(task.get_coro()) or names[child] in task.get_name():
                    task.cancel()
            await anyio.sleep_forever()
    assert f"{child} ended by itself" in caplog.text
