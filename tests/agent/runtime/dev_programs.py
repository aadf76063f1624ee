"""Programs that speak a dev child's end of the channel and load nothing, so that a test of a parent takes no time."""

from __future__ import annotations

import sys
from pathlib import Path

CHANNEL = """
import json, os, signal, socket, sys
left = json.loads(os.environ["DEFINABLE_DEV_CHILD"])
parent = socket.socket(fileno=left["channel"])

def tell(event, sockets=(), **message):
    data = json.dumps({"event": event, **message}).encode() + b"\\n"
    socket.send_fds(parent, [data], [sock.fileno() for sock in sockets])

def serve():
    tell("begun", stops_within=20)
    tell("serving")
    open(f"{sys.argv[0]}.serves", "w").close()

def ended():
    work = {"completed": 4, "failed": 0, "cancelled": 0, "never_started": 0}
    tell("ended", report={"duration": 1.5, "sources": {"http": work}, "forced": False, "stuck_threads": []})
"""

OBEDIENT = """
serve()
assert parent.recv(1) == b"s"
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
