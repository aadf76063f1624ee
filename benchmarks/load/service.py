"""A service under load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from benchmarks.served.process import ROOT, Service, serving

from . import wrk
from .generator import Load
from .requests import Ask

CONNECTIONS = 32

WARMING_UP = 0.3
"""Of the time under load, before it counts."""


@dataclass(frozen=True, slots=True)
class UnderLoad:
    """What a service did."""

    load: Load
    processor: float
    """Seconds that its process used."""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.load.answered / self.load.seconds

    @property
    def cost(self) -> float:
        """Microseconds of the processor for one answer."""
        return self.processor / max(self.load.answered, 1) * 1e6


def numbers(module: str, backend: str, ask: Ask, seconds: float) -> Mapping[str, float]:
    """Serve, ask, and count: `rate` and `cost`."""
    with serving(module, backend) as service:
        ask_for(max(seconds * WARMING_UP, 0.05), service, ask, CONNECTIONS)
        found = under_load(seconds, service, ask, CONNECTIONS)
    return {"rate": found.rate, "cost": found.cost}


def under_load(seconds: float, service: Service, ask: Ask, connections: int) -> UnderLoad:
    """Ask a service.

    Raises:
        RuntimeError: It did not answer all with 2xx.
    """
    process = psutil.Process(service.pid)
    before = process.cpu_times()
    load = ask_for(seconds, service, ask, connections)
    after = process.cpu_times()
    if load.failed or not load.answered:
        raise RuntimeError(f"{load.failed} of {load.answered + load.failed} requests for {ask.path} failed")
    return UnderLoad(load, after.user + after.system - before.user - before.system)


def ask_for(seconds: float, service: Service, ask: Ask, connections: int) -> Load:
    """Ask by wrk where it is installed and its whole seconds will do, else by our own generator."""
    port = int(service.url.rpartition(":")[2])
    if seconds >= 1 and wrk.is_installed():
        return wrk.ask_for(round(seconds), port, ask, connections)
    command = [sys.executable, "-m", "benchmarks.load.generator", str(seconds), str(port), str(connections)]
    command += [ask.path, json.dumps(dict(ask.headers)), ask.body.decode()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return Load(int(found["answered"]), int(found["failed"]), found["seconds"], found["p99"])
