"""What clients without credentials can make a service hold, and how long everybody else waits meanwhile.

Bounded in number and time, and over loopback alone. How long others wait is told by the clock, and so by what else the
machine does; the longest turn of the event loop, by the processor time of its thread, is not.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import resource
import socket
import ssl
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import psutil

from benchmarks.effort import Effort
from benchmarks.load.requests import WEBHOOK
from benchmarks.question import Column, Contender, Question
from benchmarks.served.process import Service, serving

ATTACKED = "benchmarks.served.attacked"

Make: TypeAlias = Callable[[Service, Effort, ExitStack], None]
"""Makes an attack; what it opens stays open with the stack."""

BODY = 2**20
"""Bytes of a body, less the last one."""

INFLATED = 2**28
"""Bytes that a message inflates to."""

FIELDS = 500_000
"""Of a form."""

KEY = 60_000
"""Bytes of an id."""

FEW = 4
"""Connections of an attack that needs no more."""

SPARE = 500
"""Connections beyond what our own server takes by default, at full effort."""

DESCRIPTORS = 200
"""Of this process, beside the connections."""

FLOOD = 2.0
"""Times as long as a timing loop goes on."""

PIECE = 500
"""Frames that are sent at once."""

ID = b"\x00STR"
"""In a frame, where the number of its stream belongs."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""Of an HTTP/2 connection (RFC 9113, section 3.4)."""

SERVERS = {
    "uvicorn": "uvicorn",
    "asyncio": "definable, asyncio",
    "trio": "definable, trio",
    "hypercorn": "hypercorn",
}

PATIENCE = 60.0
"""Seconds for an answer."""

SETTLE = 1.0
"""Seconds for a service to take what was sent."""

LOOK = 0.005
"""Seconds between two looks at what a service holds."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    name, server = contender.subject.split(" ")
    attack, figures = ATTACKS[name], dict[str, float]()
    with ExitStack() as stack:
        certificate = stack.enter_context(certified()) if attack.over_tls else ""
        service = stack.enter_context(serving(ATTACKED, f"{server}:{certificate}", "https" if certificate else "http"))
        with watched(service, attack, figures), ExitStack() as held:
            attack.make(service, effort, held)
            time.sleep(SETTLE if effort.seconds else 0)
    return figures


def send_form(service: Service, effort: Effort, held: ExitStack) -> None:
    """Forms of half a million fields."""
    kind = b"application/x-www-form-urlencoded"
    send_each(service, held, [post(b"/form", kind, b"a&" * FIELDS)] * FEW)


def send_unknown_fields(service: Service, effort: Effort, held: ExitStack) -> None:
    """Documents of a hundred thousand fields that nobody knows."""
    body = json.dumps({"input": "hi"} | {f"{number:x}": 1 for number in range(FIELDS // 5)}, separators=",:").encode()
    send_each(service, held, [post(b"/run", b"application/json", body)] * FEW)


def send_keys(service: Service, effort: Effort, held: ExitStack) -> None:
    """Deliveries whose ids are as long as a header may be."""
    request = WEBHOOK.to_bytes().replace(b"/webhook", b"/once", 1)
    head, _, body = request.partition(b"\r\n\r\n")
    with connected(service) as client:
        for number in range(effort.in_flight):
            client.sendall(head + b"\r\nx-delivery: %d-" % number + b"k" * KEY + b"\r\n\r\n" + body)
            if not client.recv(4096):
                return


def connect_idly(service: Service, effort: Effort, held: ExitStack) -> None:
    """More connections than our own server takes by default, none of which ever asks for anything."""
    count = 5 * effort.in_flight + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + DESCRIPTORS), hard), hard))
    for _ in range(count):
        held.enter_context(connected(service))


def flood(frame: bytes) -> Make:
    """Frames of HTTP/2 that cost their sender nothing, over a few connections, and new ones once those are ended."""

    def send(service: Service, effort: Effort, held: ExitStack) -> None:
        end = time.monotonic() + FLOOD * effort.seconds
        threads = [threading.Thread(target=flood_until, args=(service, frame, end)) for _ in range(FEW)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return send


def flood_until(service: Service, frame: bytes, end: float) -> None:
    while True:
        try:
            with connected(service, "h2") as client:
                client.sendall(PREFACE)
                for stream in itertools.count(1, 2 * PIECE):
                    ids = range(stream, stream + 2 * PIECE, 2)
                    client.sendall(b"".join(frame.replace(ID, id.to_bytes(4, "big")) for id in ids))
                    if time.monotonic() >= end:
                        return
        except OSError:  # ended
            pass
        if time.monotonic() >= end:
            return


def post(path: bytes, kind: bytes, body: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (path, kind, len(body)) + body


def send_each(service: Service, held: ExitStack, requests: list[bytes]) -> None:
    for request in requests:
        client = held.enter_context(connected(service))
        try:
            client.sendall(request)
            client.recv(4096)
        except OSError:  # answered already
            pass


def send_bodies(service: Service, effort: Effort, held: ExitStack) -> None:
    """Bodies of which the last byte never comes."""
    head = WEBHOOK.to_bytes().partition(b"\r\n\r\n")[0].replace(b"content-length: 86", b"content-length: %d" % BODY)
    assert b"%d" % BODY in head
    for _ in range(max(effort.in_flight // 10, 1)):
        client = held.enter_context(connected(service))
        try:
            client.sendall(head + b"\r\n\r\n" + b" " * (BODY - 1))
        except OSError:  # answered already
            pass


def send_bombs(service: Service, effort: Effort, held: ExitStack) -> None:
    """WebSocket messages of zeros, compressed (RFC 7692)."""
    size = INFLATED if effort.seconds else 2**20
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = (compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    frame = b"\xc2\xff" + len(deflated).to_bytes(8, "big") + bytes(4) + deflated
    for _ in range(FEW):
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


def connected(service: Service, protocol: str = "http/1.1") -> socket.socket:
    """A connection, over TLS where the service has it."""
    client = socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), PATIENCE)
    if service.url.startswith("http:"):
        return client
    context = ssl._create_unverified_context()
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(client)


@contextmanager
def certified() -> Generator[str]:
    """A file with a certificate and its key."""
    import trustme  # of the `test` extra

    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/certificate.pem"
        trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
        yield path


@contextmanager
def watched(service: Service, attack: Attack, figures: dict[str, float]) -> Generator[None]:
    """Notes the most memory that a service gains, the longest that another client waits for its answer, and the longest
    that the event loop was busy without a break."""
    ended, waits, held = threading.Event(), list[float](), list[int]()
    process = psutil.Process(service.pid)
    with ExitStack() as clients:
        client = clients.enter_context(connected(service))
        longest_turn(client)
        before = process.memory_info().rss

        def ask() -> None:
            began = time.perf_counter()
            if attack.shuts_out:
                with connected(service) as newcomer:
                    newcomer.sendall(WEBHOOK.to_bytes())
                    newcomer.recv(4096)
            else:
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
        with connected(service) as last:
            figures["turn"] = longest_turn(last) * 1e3
    figures["memory"] = max(held) / 2**20
    figures["wait"] = max(waits) * 1e3


def longest_turn(client: socket.socket) -> float:
    """Seconds of processor time; and begins anew."""
    client.sendall(WEBHOOK.to_bytes().replace(b"/webhook", b"/turn", 1))
    answer = client.recv(4096)
    while not answer.rstrip().endswith(b"}"):
        answer += client.recv(4096)
    return float(json.loads(answer.partition(b"\r\n\r\n")[2])["longest"])


def repeatedly(call: Callable[[], None], ended: threading.Event) -> None:
    while True:
        call()
        if ended.wait(LOOK):
            return


@dataclass(frozen=True, slots=True)
class Attack:
    """Something that costs its sender next to nothing."""

    make: Make
    over_tls: bool = False
    """HTTP/2 is spoken over TLS alone, and not by uvicorn."""
    shuts_out: bool = False
    """Whether it is about new clients, rather than those that are connected."""


ATTACKS = {
    "bodies": Attack(send_bodies),
    "bombs": Attack(send_bombs),
    "form": Attack(send_form),
    "fields": Attack(send_unknown_fields),
    "keys": Attack(send_keys),
    "connections": Attack(connect_idly, shuts_out=True),
    "settings": Attack(flood(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), over_tls=True),
    "priorities": Attack(flood(b"\x00\x00\x05\x02\x00\x00\x00\x00\x01\x00\x00\x00\x00\x10"), over_tls=True),
    "windows": Attack(flood(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01"), over_tls=True),
    "resets": Attack(
        flood(
            b"\x00\x00\x06\x01\x05" + ID + b"\x82\x84\x87\x41\x01x" + b"\x00\x00\x04\x03\x00" + ID + b"\x00\x00\x00\x08"
        ),
        over_tls=True,
    ),
}

NEEDS = {"uvicorn": ("uvicorn", "httptools", "uvloop", "websockets"), "hypercorn": ("uvloop",)}

QUESTION = Question(
    name="attacks",
    asks="what can clients without credentials make a service hold, and how long do others wait meanwhile?",
    contenders=tuple(
        Contender(
            f"{name}: {title}",
            f"{name} {server}",
            needs=(*NEEDS.get(server, ()), *(("trustme",) if attack.over_tls else ())),
            ours=title.startswith("definable"),
        )
        for name, attack in ATTACKS.items()
        for server, title in SERVERS.items()
        if not (attack.over_tls and server == "uvicorn")
    ),
    columns=(
        Column("wait", "others wait, ms", has_ratio=False),
        Column("turn", "longest turn, ms of CPU", has_ratio=False),
        Column("memory", "memory, MiB", target=128.0, has_ratio=False),
    ),
    measure=measure,
)
