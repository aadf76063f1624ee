"""`definable emit` and `definable deadletters` work on the bus of a service that runs, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from click.testing import CliRunner

from definable.agent import Agent
from definable.agent.bus import EventBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.cli import main

pytestmark = pytest.mark.anyio

LIMIT = 40.0
"""Seconds that a test may hang."""


class Service:
    """An agent whose handler notes what it gets, and fails where the body says so."""

    def __init__(self, bus: EventBus, name: str | None = None) -> None:
        self.agent = Agent("offline", bus=bus, name=name)
        self.agent.on(EventTrigger("order.*"))(self.on_order)
        self.handled: list[object] = []
        self._changed = anyio.Event()

    async def on_order(self, event: TriggerEvent) -> None:
        self.handled.append(event.body)
        self._changed.set()
        if event.body == {"fails": self.handled.count(event.body)}:
            raise ValueError("no stock")

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed = anyio.Event()
            await self._changed.wait()


async def definable(*arguments: str) -> str:
    """What the command prints; in a thread, since it has an event loop of its own."""
    done = await to_thread.run_sync(lambda: CliRunner().invoke(main, arguments))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", [None, "shop"])
@pytest.mark.parametrize("server", ["sqlite", "redis", "postgres"])
async def test_an_event_from_another_process_is_handled(
    server: str, name: str | None, request: pytest.FixtureRequest, path: Path
) -> None:
    if server == "sqlite":
        url, bus = str(path), SQLiteBus(path)
    else:
        found = request.getfixturevalue(server)
        url, bus = (found.url, RedisBus(found.url)) if server == "redis" else (found, PostgresBus(found))
    service = Service(bus, name)
    whose = () if name is None else ("--agent", name)
    with anyio.fail_after(LIMIT):
        async with service.agent.running(enable_server=False) as runtime:
            assert await definable("emit", "order.paid", '{"n": 1}', "--bus", url, *whose) == "accepted order.paid\n"
            await service.until(lambda: service.handled == [{"n": 1}])
            await definable("emit", "order.sent", "7", "--bus", url, "--delay", "0.2", *whose)
            await definable("emit", "order", "--bus", url, *whose)  # no trigger is for it
            await service.until(lambda: len(service.handled) == 2)
        assert service.handled[1] == {"data": 7}
        assert runtime.report is not None and runtime.report.clean
        if server == "sqlite" or name:  # else nothing else is to be shown
            await definable("emit", "order.paid", "--bus", url, *whose)  # while no service runs
            async with service.agent.running(enable_server=False):
                await service.until(lambda: len(service.handled) == 3)


async def test_dead_letters_of_a_service_that_runs_are_replayed(tmp_path: Path, path: Path) -> None:
    program = tmp_path / "shop.py"
    program.write_text(
        "from definable.agent import Agent\nfrom definable.agent.bus import SQLiteBus\n"
        f"agent = Agent('offline', bus=SQLiteBus({os.fspath(path)!r}))\n"
    )
    service = Service(SQLiteBus(path))
    with anyio.fail_after(LIMIT):
        async with service.agent.running(enable_server=False) as runtime:
            await service.agent.aemit("order.paid", {"fails": 1})
            await service.until(lambda: len(service.handled) == 1)
            while not (letters := await runtime.bus.dead_letters()):
                await anyio.sleep(0.01)
            assert await definable("deadletters", "replay", str(program), "--all") == f"replayed {letters[0].id}\n"
            await service.until(lambda: len(service.handled) == 2)
            assert await definable("deadletters", "list", str(program)) == "there are no dead letters\n"


async def test_a_service_without_named_pipes_looks_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "mkfifo")
    monkeypatch.setattr("definable.agent.bus.sqlite.CLOCK_PAUSE", 0.05)
    service = Service(SQLiteBus(path))
    with anyio.fail_after(LIMIT):
        async with service.agent.running(enable_server=False):
            await definable("emit", "order.paid", "--bus", str(path))
            await service.until(lambda: len(service.handled) == 1)


def test_a_process_that_ends_without_serving_says_what_it_lost(tmp_path: Path) -> None:
    program = (
        "from definable.agent import Agent\nfrom definable.agent.bus import SQLiteBus\n"
        "Agent('offline').emit('kept')\n"  # an agent that is gone has nothing to say
        "agent = Agent('offline', bus=SQLiteBus('events.db'))\nagent.emit('order.paid', {'id': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0
    assert done.stderr.startswith("1 events are lost, of which the first is 'order.paid'")
