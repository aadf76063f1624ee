"""Thousands of kept-alive connections that ask for nothing more: what does one weigh, and who still gets in?"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack

import psutil

from benchmarks.effort import Effort
from benchmarks.load.requests import WEBHOOK
from benchmarks.question import Column, Contender, Question
from benchmarks.served.process import Service, serving

BARE = "benchmarks.served.bare"

WARMING_UP = 200
"""Connections that come and go before it counts: what a process allocates once is no connection's."""

PATIENCE = 10.0
"""Seconds for an answer."""

SPARE = 500
"""Connections beyond what our own server takes by default, at full effort."""

DESCRIPTORS = 64
"""Of this process, beside the connections."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    count = 5 * effort.in_flight + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + DESCRIPTORS), hard), hard))
    with serving(*contender.subject.split(" ")) as service:
        with ExitStack() as brief:
            for _ in range(WARMING_UP):
                asked(service, brief)
        process = psutil.Process(service.pid)
        before = process.memory_info().rss
        with ExitStack() as kept:
            for _ in range(count):
                asked(service, kept)
            weight = (process.memory_info().rss - before) / min(count, 10_000)
            began = time.perf_counter()
            asked(service, kept)
            waited = time.perf_counter() - began
    return {"weight": weight / 1024, "newcomer": waited * 1e3}


def asked(service: Service, until: ExitStack) -> None:
    """Make a connection, and have one request answered on it."""
    address = "127.0.0.1", int(service.url.rpartition(":")[2])
    client = until.enter_context(socket.create_connection(address, PATIENCE))
    client.sendall(WEBHOOK.to_bytes())
    answer = client.recv(4096)
    if not answer.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"a client was answered {answer[:20]!r}")


QUESTION = Question(
    name="idle_connections",
    asks="thousands of kept-alive connections without a request: what does one weigh, and does a new client get in?",
    contenders=(
        Contender("uvicorn", f"{BARE} uvicorn", needs=("uvicorn", "httptools", "uvloop")),
        Contender("definable, asyncio", f"{BARE} asyncio", ours=True),
        Contender("definable, trio", f"{BARE} trio", ours=True),
        Contender("hypercorn", f"{BARE} hypercorn", needs=("uvloop",)),
    ),
    columns=(
        Column("weight", "a connection, KiB", target=1.5, target_is_ratio=True),
        Column("newcomer", "a new client's answer, ms", has_ratio=False),
    ),
    measure=measure,
)
