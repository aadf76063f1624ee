"""A soak: an agent is served for an hour under a steady mix of work, and must not grow, leak or slow down.

    python -m tests.soak                          an hour on asyncio
    python -m tests.soak --backend trio --minutes 10

The service has a process of its own; this one is its clients. Every so often the soak samples the service's memory,
file descriptors, tasks and threads, and the latency that its clients saw. At the end it prints them as a table and
draws a line through each by least squares, the first fifth left out, in which caches fill and sessions grow as long as
they may be. It fails when a line rises by more than its tolerance over the soak: a share of the mean, and a few units,
which are noise at any length. So what leaks slowly needs a long soak to show.

Options: `--backend asyncio|trio`, `--minutes N`, `--rate N` (requests a second).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, linear_regression, quantiles
from typing import Any

import anyio
import httpx2
import psutil
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

WARM_UP = 0.2
"""Share of the samples that is left out."""

SAMPLES = 60
"""How many samples are taken, at most one in `MIN_INTERVAL` seconds."""

MIN_INTERVAL = 0.5

CLIENTS = 8

LIFE = 20.0
"""Seconds that the service may take to start, and to stop."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment."""

    memory: float
    """MiB, resident."""
    descriptors: float
    tasks: float
    threads: float
    latency: float
    """Milliseconds, the median since the last sample."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a line may rise over the soak."""

    share: float
    """Of its mean."""
    units: float


TOLERANCES = {
    "memory": Tolerance(0.10, 6.0),
    "descriptors": Tolerance(0.05, 4.0),
    "tasks": Tolerance(0.10, 10.0),
    "threads": Tolerance(0.10, 4.0),
    "latency": Tolerance(0.50, 30.0),
}
"""Of what noise there is on a busy machine with two processors, about twice."""


def rise(values: list[float]) -> float:
    """How much the line through the values rises from the first to the last."""
    if len(values) < 2:
        return 0.0
    slope, _ = linear_regression(range(len(values)), values)
    return slope * (len(values) - 1)


def trends(samples: list[Sample]) -> dict[str, tuple[float, float, float]]:
    """Of everything that is watched: its mean, its rise, and how much that may be."""
    steady = samples[int(len(samples) * WARM_UP) :]
    found: dict[str, tuple[float, float, float]] = {}
    for name, tolerance in TOLERANCES.items():
        values = [getattr(sample, name) for sample in steady]
        mean = fmean(values)
        found[name] = mean, rise(values), mean * tolerance.share + tolerance.units
    return found


class Soak:
    """One soak.

    Args:
        backend: The service's.
        seconds: How long.
        rate: Requests a second, over all clients.
    """

    def __init__(self, backend: str, seconds: float, rate: float) -> None:
        self.samples: list[Sample] = []
        self.failures: list[str] = []
        self.requests = 0
        self.account: dict[str, Any] = {}
        self._backend = backend
        self._seconds = seconds
        self._pause = CLIENTS / rate
        self._latencies: list[float] = []

    async def run(self) -> None:
        """Serve, make load, sample, stop."""
        script = Path(__file__).with_name("soak_mix.py")
        async with await anyio.open_process([sys.executable, script, self._backend], stderr=None) as process:
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            with anyio.fail_after(LIFE):
                url = json.loads(await lines.receive_until(b"\n", 65_536))["url"]
            async with anyio.create_task_group() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(self._ask, url, random.Random(number))
                await self._sample(process, url)
                clients.cancel_scope.cancel()
            process.terminate()
            with anyio.fail_after(LIFE):
                self.account = json.loads(await lines.receive_until(b"\n", 65_536))
                status = await process.wait()
        if status != 0:
            self.failures.append(f"exit status {status}")

    async def _sample(self, process: Process, url: str) -> None:
        service = psutil.Process(process.pid)
        interval = max(MIN_INTERVAL, self._seconds / SAMPLES)
        end = time.monotonic() + self._seconds
        async with httpx2.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=LIFE) as client:
            while time.monotonic() < end:
                await anyio.sleep(interval)
                counts = (await client.get("/counts")).json()
                latencies, self._latencies = self._latencies, []
                self.samples.append(
                    Sample(
                        memory=service.memory_info().rss / 2**20,
                        descriptors=service.num_fds(),
                        tasks=counts["tasks"],
                        threads=service.num_threads(),
                        latency=1000 * quantiles(latencies, n=2)[0] if len(latencies) > 1 else 0.0,
                    )
                )

    async def _ask(self, url: str, chance: random.Random) -> None:
        async with httpx2.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=LIFE) as client:
            while True:
                await anyio.sleep(chance.uniform(0, 2 * self._pause))
                began = time.perf_counter()
                status = await self._one(client, chance)
                self._latencies.append(time.perf_counter() - began)
                self.requests += 1
                if status >= 400 and status != 500:  # a 500 is the handler that fails on purpose
                    self.failures.append(f"status {status}")

    async def _one(self, client: httpx2.AsyncClient, chance: random.Random) -> int:
        run = {"input": "word " * chance.randrange(1, 50), "session_id": f"s{chance.randrange(200)}"}
        kind = chance.choice(("wait", "accept", "emit", "fail", "run", "stream", "background"))
        if kind == "stream":
            async with client.stream("POST", "/run", json=run, headers={"Accept": "text/event-stream"}) as answer:
                async for _ in answer.aiter_lines():
                    pass
            return answer.status_code
        headers = {"Prefer": "respond-async"} if kind == "background" else {}
        path = "/run" if kind in ("run", "background") else f"/{kind}"
        return (await client.post(path, json=run, headers=headers)).status_code


def table(samples: list[Sample]) -> str:
    """The samples, a dozen of them, and the trends."""
    names = [field.name for field in fields(Sample)]
    rows = ["".join(f"{name:>14}" for name in ("sample", *names))]
    for number in range(0, len(samples), max(1, len(samples) // 12)):
        values = (f"{getattr(samples[number], name):14.1f}" for name in names)
        rows.append(f"{number:14}" + "".join(values))
    for label, index in (("mean", 0), ("rise", 1), ("may rise", 2)):
        rows.append(f"{label:>14}" + "".join(f"{trends(samples)[name][index]:14.1f}" for name in names))
    return "\n".join(rows)


def verdict(soak: Soak) -> list[str]:
    """What was wrong."""
    wrong = [f"{name} rises by {up:.1f}" for name, (_, up, limit) in trends(soak.samples).items() if up > limit]
    if not soak.account.get("clean"):
        wrong.append(f"the stop was not clean: {soak.account}")
    return wrong + soak.failures[:5]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0)
    options = parser.parse_args()
    soak = Soak(options.backend, options.minutes * 60, options.rate)
    anyio.run(soak.run)
    wrong = verdict(soak)
    lines = [table(soak.samples), f"{soak.requests} requests; {soak.account.get('report')}", *wrong]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
