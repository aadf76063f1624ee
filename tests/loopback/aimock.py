"""Starts aimock (npm `@copilotkit/aimock`), an emulator of OpenAI's API that others wrote.

It keeps our own loopback server honest: what passes against both is not merely our reading of the API.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import node_package
from .node_package import NodeMissing

__all__ = ["NodeMissing", "install", "running"]

PACKAGE = "@copilotkit/aimock"
VERSION = "1.43.0"


def install(directory: Path) -> tuple[str, Path]:
    """Return node and aimock's script, installed once into `directory`.

    Raises:
        NodeMissing: There is no Node.
    """
    node, package = node_package.install(directory, PACKAGE, VERSION)
    return node, package / "dist" / "cli.js"


@contextmanager
def running(
    installed: tuple[str, Path], fixtures: Sequence[dict[str, Any]], directory: Path, key: str
) -> Iterator[str]:
    """Serve the fixtures; give the base URL."""
    node, script = installed
    file = directory / "fixtures.json"
    file.write_text(json.dumps({"fixtures": fixtures}))
    command = [node, str(script), "-h", "127.0.0.1", "-p", "0", "-f", str(file), "--strict", "--validate-on-load"]
    environment = os.environ | {"AIMOCK_API_KEYS": key}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        try:
            yield f"{_listening_at(server)}/v1"
        finally:
            server.terminate()


def _listening_at(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    said: list[str] = []
    for line in server.stdout:
        said.append(line)
        if "listening on " in line:
            return line.split("listening on ")[1].strip()
    raise RuntimeError(f"aimock did not start: {''.join(said)}")
