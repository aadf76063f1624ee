"""Serves again and again, each time in a fork of its own, under load, and sends signals at random moments.

    python forked_services.py BACKEND COUNT SEED

Prints what came of it: how often each exit status was seen, and what was wrong.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from typing import NoReturn

import anyio

from definable.agent import Agent
from definable.agent.runtime import AgentRuntime, ShutdownReport
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook

GRACE = 5.0
"""Seconds."""

HANG = GRACE + 10.0
"""Seconds from the last signal after which a process hangs."""

CLIENTS = 4

CLIENT = ("127.0.0.2", 0) if sys.platform == "linux" else None
"""Not the service's address: there TCP may connect a port to itself, and the service lacks it then."""

REQUEST = b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def service() -> Agent:
    agent = Agent("offline")

    @agent.on(Webhook("/wait"))
    async def wait(event: TriggerEvent) -> str:
        agent.emit("job")
        await anyio.sleep(random.choice((0, 0.001, 0.05)))
        return "hi"

    @agent.on(EventTrigger("job"))
    def job(event: TriggerEvent) -> None:
        time.sleep(random.choice((0, 0.001, 0.01)))

    @agent.on(Cron("* * * * * *"))
    async def every_second(event: TriggerEvent) -> None:
        agent.emit("job")

    return agent


def serve(backend: str, listening: socket.socket, word: int) -> NoReturn:
    """Be a service, which says "s" when it listens to signals and at the end what became of its work."""
    # Python drops a KeyboardInterrupt that falls into an import's weakref callback, and a program's imports come before
    # `serve`: a signal that comes there is to end the process (https://github.com/python/cpython/issues/95959).
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run = AgentRuntime.run

    async def announced(runtime: AgentRuntime, **options: object) -> ShutdownReport:
        os.write(word, b"s")
        return await run(runtime, **options)  # type: ignore[arg-type]

    AgentRuntime.run = announced  # type: ignore[method-assign]
    port = listening.getsockname()[1]
    listening.close()
    report = service().serve(
        host="127.0.0.1",
        port=port,
        backend=backend,  # type: ignore[arg-type]
        shutdown_timeout=GRACE,
    )
    os.write(word, b"c" if report.clean else b"u")
    sys.exit(0)


def make_load(port: int) -> NoReturn:
    """Be the clients, until killed."""

    def ask() -> None:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5, source_address=CLIENT) as connection:
                    while True:
                        connection.sendall(REQUEST)
                        if not connection.recv(4096):
                            break
            except OSError:
                time.sleep(0.005)

    for _ in range(CLIENTS):
        threading.Thread(target=ask, daemon=True).start()
    threading.Event().wait()
    raise AssertionError


def wait_for_end(pid: int, limit: float) -> int | None:
    """The exit status, as `subprocess` has it; None when it did not come."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def said(word: int) -> bytes:
    """What the service has written so far."""
    text = b""
    while select.select([word], [], [], 0)[0] and (part := os.read(word, 100)):
        text += part
    return text


def verdict(status: int | None, signals: list[int], words: bytes) -> str | None:
    """What is wrong with an end; None when nothing is."""
    if status is None:
        return "hangs"
    allowed, listened = {0}, words.startswith(b"s")
    if len(signals) > 1:
        allowed |= {128 + signals[0], 128 + signals[-1]}
    if len(signals) > 1 or not listened:  # one may come when `serve` has returned, or is not yet called
        allowed |= {-number for number in signals}
    if status not in allowed:
        return f"exit status {status} after {signals}{'' if listened else ', before it listened'}"
    if listened and status == 0 and words != b"sc":
        return f"said {words!r}"
    return None


def cycle(backend: str, chance: random.Random) -> tuple[int | None, str | None]:
    """One service, from fork to end."""
    reader, writer = os.pipe()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = os.fork()
        if server == 0:
            os.close(reader)
            serve(backend, listening, writer)
        port = listening.getsockname()[1]
    os.close(writer)
    clients = os.fork()
    if clients == 0:
        make_load(port)
    if chance.random() < 0.9:  # else the first signal may come before it listens
        select.select([reader], [], [], 10)
    time.sleep(chance.uniform(0, 0.1))
    signals = [chance.choice((signal.SIGINT, signal.SIGTERM)) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    words = said(reader)
    for number in signals:
        try:
            os.kill(server, number)
        except ProcessLookupError:
            break
        time.sleep(chance.uniform(0.001, 0.05))
    status = wait_for_end(server, HANG)
    os.kill(clients, signal.SIGKILL)
    os.waitpid(clients, 0)
    if status is None:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    wrong = verdict(status, [int(number) for number in signals], words + said(reader) if words else b"")
    os.close(reader)
    return status, wrong


def main() -> None:
    backend, count, seed = sys.argv[1:]
    statuses: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(int(count)):
        status, what = cycle(backend, random.Random(f"{seed} {number}"))
        statuses[str(status)] += 1
        if what is not None:
            wrong.append(f"cycle {number}: {what}")
    sys.stdout.write(f"{json.dumps({'cycles': int(count), 'statuses': statuses, 'wrong': wrong})}\n")


if __name__ == "__main__":
    main()
