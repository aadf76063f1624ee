"""The load by wrk (https://github.com/wg/wrk)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile

from .generator import Load
from .requests import Ask

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}

TIMEOUT = 10
"""Seconds for one answer."""


def is_installed() -> bool:
    """Whether there is a wrk."""
    return shutil.which("wrk") is not None


def ask_for(seconds: int, port: int, ask: Ask, connections: int) -> Load:
    """Ask on so many connections at once; wrk knows whole seconds only."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.body = {lua(ask.body.decode())}\n')
        script.writelines(f"wrk.headers[{lua(name)}] = {lua(value)}\n" for name, value in ask.headers.items())
        script.flush()
        url = f"http://127.0.0.1:{port}{ask.path}"
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT}s", "--latency", "-s", script.name]
        done = subprocess.run(["wrk", *options, url], capture_output=True, text=True, check=True)
    return parsed(done.stdout)


def lua(text: str) -> str:
    """A string as Lua writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parsed(report: str) -> Load:
    """What wrk says that it counted."""
    answered = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", report)
    slowest = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", report)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
    assert answered is not None and slowest is not None, report
    failed = int(refused[1]) if refused else 0
    failed += sum(map(int, broken.groups())) if broken else 0
    return Load(
        int(answered[1]), failed, float(answered[2]) * UNITS[answered[3]], float(slowest[1]) * UNITS[slowest[2]]
    )
