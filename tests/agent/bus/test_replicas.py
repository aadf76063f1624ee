"""Three replicas whose clocks are 3 s apart, a cron job each second, one server: every tick fires once.

A firing that all of them missed is made once when they start again.
`DEFINABLE_KILLS=20` restarts replicas that often instead of three times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from loopback.redis import RedisServer

from definable.agent import Agent
from definable.agent.bus import EventBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.trigger import Cron, OneShot, TriggerEvent
from definable.concurrency.clock import SystemClock, use_clock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

RESTARTS = int(os.environ.get("DEFINABLE_KILLS", "3"))

REPLICAS = (("asyncio", "-3"), ("trio", "0"), ("asyncio", "3"))

STOP_TIMEOUT = 20.0
"""Seconds."""


@contextmanager
def replica(url: str, log: Path, backend: str, skew: str) -> Generator[subprocess.Popen[str], None, None]:
    script = str(Path(__file__).with_name("replica.py"))
    command = [sys.executable, script, url, str(log), backend, skew]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(60 + 4 * RESTARTS)
@pytest.mark.parametrize("server", ["redis", "postgres"])
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_every_tick_fires_once_over_replicas_that_restart(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, by: signal.Signals
) -> None:
    found: RedisServer | str = request.getfixturevalue(server)
    url, log = found if isinstance(found, str) else found.url, tmp_path / "log"
    with ExitStack() as stack:
        running = [stack.enter_context(replica(url, log, *options)) for options in REPLICAS]
        began = time.time()
        for restart in range(RESTARTS):
            time.sleep(random.uniform(0.5, 1.5))
            which = restart % len(REPLICAS)
            running[which].send_signal(by)
            assert running[which].wait(STOP_TIMEOUT) == (0 if by is signal.SIGTERM else -9)
            running[which] = stack.enter_context(replica(url, log, *REPLICAS[which]))
        time.sleep(5 if by is signal.SIGTERM else 7)  # the last that a kill has left is taken over in the meantime
        ended = time.time()
        for process in running:
            process.terminate()
        for process in running:
            assert process.wait(STOP_TIMEOUT) == 0

    ticks: dict[int, list[tuple[str, int]]] = defaultdict(list)
    replicas: set[str] = set()
    for line in log.read_text().splitlines():
        tick, id, attempt, skew = line.split()
        ticks[int(tick)].append((id, int(attempt)))
        replicas.add(skew)
    wanted = range(int(began) + 1, int(ended) - 3)
    repeated = sum(len(handled) - 1 for handled in ticks.values())
    sys.stdout.write(f"{RESTARTS} restarts: {len(ticks)} ticks, {repeated} of them handled again\n")
    assert [tick for tick in wanted if tick not in ticks] == []
    assert len(replicas) > 1
    for tick, handled in ticks.items():
        assert len({id for id, _ in handled}) == 1, f"{tick} was fired by several"
        assert len({attempt for _, attempt in handled}) == len(handled)
    if by is signal.SIGTERM:
        assert repeated == 0


NINE = datetime(2026, 1, 5, 9, tzinfo=UTC).timestamp()


class ClockAt(SystemClock):
    """Shows this time when it is made, in Unix seconds, and goes on from there."""

    def __init__(self, shown: float) -> None:
        self._ahead = shown - super().now()

    def now(self) -> float:
        return super().now() + self._ahead


async def serve_together(buses: list[EventBus], shown: float) -> list[tuple[float, int]]:
    """Serve a replica on each bus until all have fired something else, and stop them.

    Returns:
        The firings of nine o'clock that were handled: the time in seconds after nine, and the attempt.
    """
    handled: list[tuple[float, int]] = []
    begun = 0
    all_begun = anyio.Event()

    async def nine(event: TriggerEvent) -> None:
        handled.append((event.timestamp - NINE, event.attempt))

    async def start(event: TriggerEvent) -> None:  # what was missed is published before
        nonlocal begun
        begun += 1
        if begun == len(buses):
            all_begun.set()

    async def serve(number: int, bus: EventBus) -> None:
        agent = Agent("offline", bus=bus)
        agent.on(Cron("0 9 * * *", timezone="UTC", misfire_grace=3600))(nine)
        agent.on(OneShot(delay=0, name=f"start {number}"))(start)
        async with agent.running(enable_server=False):
            await all_begun.wait()

    with use_clock(ClockAt(shown)), anyio.fail_after(40):
        async with anyio.create_task_group() as replicas:
            for number, bus in enumerate(buses):
                replicas.start_soon(serve, number, bus)
    return handled


@pytest.mark.anyio
@pytest.mark.parametrize("server", ["redis", "postgres", "sqlite"])
async def test_a_firing_that_all_replicas_missed_is_made_once(
    server: str, request: pytest.FixtureRequest, path: Path
) -> None:
    def buses() -> list[EventBus]:
        if server == "sqlite":
            return [SQLiteBus(path)]
        found = request.getfixturevalue(server)
        return [RedisBus(found.url) if server == "redis" else PostgresBus(found) for _ in range(3)]

    assert await serve_together(buses(), NINE - 3600) == []
    assert await serve_together(buses(), NINE + 20) == [(0.0, 1)]
    assert await serve_together(buses(), NINE + 600) == []
