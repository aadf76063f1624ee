"""A service as a child process."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent.parent

START_TIMEOUT = 30.0
"""Seconds for a service to answer its first request."""

STOP_TIMEOUT = 10.0
"""Seconds for a service to end when it is told to."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: IO[str]

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    def ended(self, timeout: float) -> None:
        """Wait until its process is gone."""
        self.process.wait(timeout)

    def said(self) -> str:
        """What it has logged so far."""
        self.log.seek(0)
        return self.log.read()


@contextmanager
def serving(module: str, backend: str, scheme: str = "http") -> Generator[Service, None, None]:
    """Serve while the context is open.

    Args:
        module: Which of the files in this package.
        backend: The event loop, where there is a choice.
        scheme: `"https"` where it serves TLS.

    Raises:
        RuntimeError: The service ended, or did not answer in time.
    """
    port = free_port()
    url = f"{scheme}://127.0.0.1:{port}"
    command = [sys.executable, "-m", module, str(port), backend]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            if not answers(url, process):
                log.seek(0)
                raise RuntimeError(f"{module} does not serve: {log.read()[-2_000:].strip()}")
            yield Service(url, process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until `GET /health` is answered; False when it will not be."""
    end = time.monotonic() + START_TIMEOUT
    unverified = ssl._create_unverified_context() if url.startswith("https:") else None
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=START_TIMEOUT, context=unverified):
                return True
        except urllib.error.HTTPError:
            return False
        except OSError:  # nobody listens yet
            time.sleep(0.02)
    return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
