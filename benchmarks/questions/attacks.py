"""What clients without credentials can make a service hold, and how long everybody else waits meanwhile.

Bounded in number and time, and over loopback alone: bodies that are never finished, and WebSocket messages that inflate
to a thousand times their size.
"""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager

import psutil

from benchmarks.effort import Effort
from benchmarks.load.requests import WEBHOOK
from benchmarks.question import Column, Contender, Question
from benchmarks.served.process import Service, serving

ATTACKED = "benchmarks.served.attacked"

BODY = 2**20
"""Bytes of a body, less the last one."""

INFLATED = 2**28
"""Bytes that a message inflates to."""

BOMBS = 4
"""Connections that send one."""

PATIENCE = 60.0
"""Seconds for an answer."""

SETTLE = 1.0
"""Seconds for a service to take what was sent."""

LOOK = 0.005
"""Seconds between two looks at what a service holds."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    bodies = max(effort.in_flight // 10, 1)
    size = INFLATED if effort.seconds else 2**20
    figures: dict[str, float] = {}
    for name, attack in {
        "bodies": lambda service, held: send_bodies(service, bodies, held),
        "bombs": lambda service, held: send_bombs(service, size, held),
    }.items():
        with serving(*contender.subject.split(" ")) as service, watched(service, name, figures), ExitStack() as held:
            attack(service, held)
            time.sleep(SETTLE if effort.seconds else 0)
    return figures


def send_bodies(service: Service, count: int, held: ExitStack) -> None:
    """Bodies of which the last byte never comes."""
    head = WEBHOOK.to_bytes().partition(b"\r\n\r\n")[0].replace(b"content-length: 86", b"content-length: %d" % BODY)
    assert b"%d" % BODY in head
    for _ in range(count):
        client = held.enter_context(connected(service))
        try:
            client.sendall(head + b"\r\n\r\n" + b" " * (BODY - 1))
        except OSError:  # answered already
            pass


def send_bombs(service: Service, size: int, held: ExitStack) -> None:
    """WebSocket messages of zeros, compressed (RFC 7692)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = (compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    frame = b"\xc2\xff" + len(deflated).to_bytes(8, "big") + bytes(4) + deflated
    for _ in range(BOMBS):
        client = held.enter_context(connected(service))
        key = base64.b64encode(os.urandom(16)).decode()
        client.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n".encode()
        )
        answer = client.recv(4096)
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"no WebSocket: {answer[:60]!r}")
        try:
            client.sendall(frame)
        except OSError:  # closed already
            pass


def connected(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), PATIENCE)


@contextmanager
def watched(service: Service, name: str, figures: dict[str, float]) -> Generator[None]:
    """Notes the most memory that a service gains, and the longest that another client waits for its answer."""
    ended, waits, held = threading.Event(), list[float](), list[int]()
    process = psutil.Process(service.pid)
    with connected(service) as client:
        before = process.memory_info().rss

        def ask() -> None:
            began = time.perf_counter()
            client.sendall(WEBHOOK.to_bytes())
            client.recv(4096)
            waits.append(time.perf_counter() - began)

        def look() -> None:
            held.append(process.memory_info().rss - before)

        watchers = [threading.Thread(target=repeatedly, args=(each, ended)) for each in (ask, look)]
        for watcher in watchers:
            watcher.start()
        try:
            yield
        finally:
            ended.set()
            for watcher in watchers:
                watcher.join()
    figures[f"{name}_memory"] = max(held) / 2**20
    figures[f"{name}_wait"] = max(waits) * 1e3


def repeatedly(call: Callable[[], None], ended: threading.Event) -> None:
    while True:
        call()
        if ended.wait(LOOK):
            return


QUESTION = Question(
    name="attacks",
    asks="what can clients without credentials make a service hold, and how long do others wait meanwhile?",
    contenders=(
        Contender("uvicorn", f"{ATTACKED} uvicorn", needs=("uvicorn", "httptools", "uvloop", "websockets")),
        Contender("definable, asyncio", f"{ATTACKED} asyncio", ours=True),
        Contender("definable, trio", f"{ATTACKED} trio", ours=True),
        Contender("hypercorn", f"{ATTACKED} hypercorn", needs=("uvloop",)),
    ),
    columns=(
        Column("bodies_memory", "unfinished bodies, MiB", target=128.0, has_ratio=False),
        Column("bodies_wait", "others wait, ms", has_ratio=False),
        Column("bombs_memory", "inflated messages, MiB", target=100.0, has_ratio=False),
        Column("bombs_wait", "others wait, ms", has_ratio=False),
    ),
    measure=measure,
)
