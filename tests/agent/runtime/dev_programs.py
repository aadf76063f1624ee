"""Programs that speak a dev child's end of the channel and load little, so that a test of a parent takes no time."""

from __future__ import annotations

import sys
from pathlib import Path

import definable

CHANNEL = f"""
import fcntl, os, signal, socket, sys
from multiprocessing.connection import Connection

parent_id, channel = map(int, os.environ["DEFINABLE_DEV_CHILD"].split())
parent = Connection(channel)
sys.path.append({str(Path(definable.__file__).parent.parent)!r})
address, sockets, parent_binds = parent.recv()

def signal_off():
    fcntl.fcntl(channel, fcntl.F_SETFL, fcntl.fcntl(channel, fcntl.F_GETFL) & ~fcntl.FASYNC)

def serve():
    signal_off()
    parent.send(("begun", address, 20))
    parent.send("serving")
    open(f"{{sys.argv[0]}}.serves", "w").close()

def ended():
    sys.path += {sys.path!r}  # the report's module needs what else is installed
    from definable.agent.runtime.shutdown import ShutdownReport
    from definable.agent.work import WorkCount
    parent.send(ShutdownReport(1.5, {{"http": WorkCount(4)}}))
"""

OBEDIENT = """
serve()
assert parent.recv() == "stop"
ended()
"""

DEAF = """
serve()
signal.pause()
"""


def program(path: Path, text: str) -> list[str]:
    """Write a program at one stroke; returns the command that starts it."""
    draft = path.with_suffix(".draft")
    draft.write_text(CHANNEL + text)
    draft.replace(path)
    return [sys.executable, "-I", "-S", str(path)]
