"""A load generator of our own: `python -m benchmarks.load.generator` prints what it counted as one line of JSON.

One process, one selector. It takes several times what wrk does of a processor, so that where processors are few its
rates are lower than wrk's, by a third and more as measured: only rates by one and the same generator compare.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass

from .requests import Ask

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
END_OF_CHUNKS = b"0\r\n\r\n"
OK = re.compile(rb"HTTP/1\.1 2\d\d ")

FIRST_ANSWER_TIMEOUT = 30.0
"""Seconds until the first answer, however short the time of asking: a rate needs one answer at least."""


@dataclass(slots=True)
class Load:
    """What came of asking."""

    answered: int
    failed: int
    """Answers that were no 2xx, and connections that broke."""
    seconds: float
    p99: float
    """Seconds that the slowest hundredth of the answers took at least."""


class Caller:
    """One connection, with one request after the other."""

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self._request = request
        self._received = b""
        self._asked = 0.0

    def ask(self) -> None:
        self._asked = time.perf_counter()
        self._received = b""
        self.sock.send(self._request)

    def answered(self) -> float | None:
        """Seconds that the answer took; None while it is incomplete, negative when it is no good."""
        data = self.sock.recv(262_144)
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if data and not separator:
            return None
        length = LENGTH.search(head)
        complete = len(body) >= int(length[1]) if length else body.endswith(END_OF_CHUNKS)
        if data and not complete:
            return None
        return time.perf_counter() - self._asked if complete and OK.match(head) else -1.0


def ask_for(seconds: float, port: int, request: bytes, connections: int) -> Load:
    """Ask on so many connections at once."""
    times: list[float] = []
    failed = 0
    with selectors.DefaultSelector() as selector:
        callers = [Caller(port, request) for _ in range(connections)]
        began = time.perf_counter()
        for caller in callers:
            selector.register(caller.sock, selectors.EVENT_READ, caller)
            caller.ask()
        limit = began + max(seconds, FIRST_ANSWER_TIMEOUT)
        while (now := time.perf_counter()) < limit and len(selector.get_map()):
            for key, _ in selector.select(limit - now):
                caller: Caller = key.data
                took = caller.answered()
                if took is None:
                    continue
                if took < 0:
                    failed += 1
                    selector.unregister(caller.sock)
                    continue
                times.append(took)
                limit = began + seconds
                caller.ask()
        lasted = time.perf_counter() - began
        for caller in callers:
            caller.sock.close()
    times.sort()
    return Load(len(times), failed, lasted, times[int(len(times) * 0.99)] if times else 0.0)


if __name__ == "__main__":
    _, seconds, port, connections, path, headers, body = sys.argv
    ask = Ask(path, body.encode(), json.loads(headers))
    print(json.dumps(asdict(ask_for(float(seconds), int(port), ask.to_bytes(), int(connections)))))
