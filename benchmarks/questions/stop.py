"""SIGTERM with thousands of stuck runs and a second's grace: how long until the process is gone, and is all counted?"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Mapping

import psutil

from benchmarks.effort import Effort
from benchmarks.load.requests import RUN
from benchmarks.question import Column, Contender, Question
from benchmarks.served.process import serving

STUCK = 600
"""Seconds that the model takes: longer than anybody waits."""

SETTLE = 10.0
"""Seconds within which all requests must have come in."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    with serving(contender.subject, f"{contender.backend}:{STUCK}") as service:
        port = int(service.url.rpartition(":")[2])
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(effort.in_flight)]
        for client in clients:
            client.sendall(RUN.to_bytes())
        wait_until_taken(service.pid)
        process = psutil.Process(service.pid)
        began = time.perf_counter()
        process.terminate()
        told = answers_503(clients)
        service.ended(SETTLE)
        lasted = time.perf_counter() - began
        counted = re.search(r"http: .*?(\d+) cancelled", service.said())
    return {
        "stop": lasted,
        "told": told / effort.in_flight,
        "counted": (int(counted[1]) if counted else 0) / effort.in_flight,
    }


def wait_until_taken(pid: int) -> None:
    """Until the process has nothing to do: all runs wait."""
    process, end = psutil.Process(pid), time.monotonic() + SETTLE
    while process.cpu_percent(0.2) > 5 and time.monotonic() < end:
        pass


def answers_503(clients: list[socket.socket]) -> int:
    """How many clients are told that the service stops, before it is gone."""
    told = 0
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(SETTLE):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                try:
                    told += client.recv(4096).startswith(b"HTTP/1.1 503 ")
                except OSError:
                    pass
                selector.unregister(client)
                client.close()
    return told


QUESTION = Question(
    name="stop",
    asks="SIGTERM with thousands of stuck runs and a second's grace: when is the process gone?",
    contenders=(
        Contender("definable, asyncio", "benchmarks.served.slow", ours=True),
        Contender("definable, trio", "benchmarks.served.slow", backend="trio", ours=True),
    ),
    columns=(
        Column("stop", "SIGTERM to the end, s", target=2.0),
        Column("told", "told by 503, of all", target=1.0, at_least=True),
        Column("counted", "counted, of all", target=1.0, at_least=True),
    ),
    measure=measure,
)
