"""What the guides in `docs/` show is run: each `python` block is a program of its own, in an empty directory.

A block that serves is served on a free port of the loopback interface until it is ready, then stopped as by Ctrl-C.
"""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FENCE = re.compile(r"^```python *\n(.*?)^```", re.DOTALL | re.MULTILINE)

SECONDS = 25
"""For a block to get ready, and again to end."""

READY = re.compile(r"^  auth +", re.MULTILINE)
"""A line of the banner that every start logs."""


def blocks() -> Iterator[object]:
    for guide in sorted((ROOT / "docs").rglob("*.md")):
        text = guide.read_text()
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 2
            yield pytest.param(found[1], id=f"{guide.relative_to(ROOT)}:{line}")


class ServedHere(ast.NodeTransformer):
    """Has every `agent.serve(...)` serve on a free port of the loopback interface."""

    def __init__(self) -> None:
        self.serves = False

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        is_method = isinstance(node.func, ast.Attribute) and node.func.attr in ("serve", "aserve", "running")
        if is_method and ast.unparse(node.func.value) != "listener":  # of anyio's listeners it is not ours
            self.serves = self.serves or node.func.attr == "serve"
            kept = [keyword for keyword in node.keywords if keyword.arg not in ("host", "port")]
            here = [ast.keyword("host", ast.Constant("127.0.0.1")), ast.keyword("port", ast.Constant(0))]
            node.keywords = kept + here
        return node


@pytest.mark.parametrize("block", list(blocks()))
def test_a_block_runs(block: str, tmp_path: Path) -> None:
    served = ServedHere()
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(ast.unparse(served.visit(ast.parse(block))))
    environment = {**os.environ, "OPENAI_API_KEY": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "error", str(program)]
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=tmp_path) as process,
    ):
        try:
            if served.serves and is_ready(process, log):
                process.send_signal(signal.SIGINT)
            process.wait(SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, log.read_text()


def is_ready(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Waits until the block serves; False when it ended before."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if READY.search(log.read_text()):
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return False
