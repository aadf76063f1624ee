"""One connection too many: told so, in place of a wait that nobody explains.

Which connection gives way to a new one when there are as many as may be: one that waits for a request.

A server may close a connection between two requests at any time (RFC 9112, section 9.5). So clients that keep theirs
open without need, thousands of them perhaps, shut nobody out. One whose request is being answered is never closed.

Connections on which there was a request before go first, as a new one is about to bring its own; unless more than half
of all have brought none: those are a crowd of silent strangers, and make room for each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from heapq import nsmallest

import anyio

from .connection import Client
from .http1_response import whole_response
from .hypercorn.request_cycle import Wait
from .problem import Problem
from .transport import ClientStream, Transport

BATCH = 256
"""Connections that are picked by one look at all of them, which takes a millisecond or two for ten thousand."""

PAUSE = 2e-6
"""Seconds for each connection until the next look after one that found fewer: nearly all are busy then, and looks take
a tenth of the time."""


class Evictions:
    """Ends connections that wait for a request, the longest waiting first.

    Args:
        clients: All that are served.
        clock: The event loop's, in seconds.
    """

    def __init__(self, clients: Collection[Client], clock: Callable[[], float]) -> None:
        self._clients = clients
        self._clock = clock
        self._picked: deque[tuple[Wait, Client]] = deque()
        self._next_look = 0.0

    def evict(self) -> bool:
        """Ends one connection; False if none may be ended now."""
        return self._evict_picked() or (self._look() and self._evict_picked())

    def _evict_picked(self) -> bool:
        while self._picked:
            wait, client = self._picked.popleft()
            if client.wait == wait and not client.has_unread:
                client.end()
                return True
        return False

    def _look(self) -> bool:
        """Picks connections; says whether there are any."""
        now = self._clock()
        if now < self._next_look:
            return False
        new: list[tuple[Wait, Client]] = []
        used: list[tuple[Wait, Client]] = []
        for client in self._clients:
            if (wait := client.wait) is not None:
                (new if wait.is_first else used).append((wait, client))
        candidates = new if 2 * len(new) > len(self._clients) or not used else used
        self._picked.extend(nsmallest(BATCH, candidates, key=lambda pair: pair[0]))
        if len(self._picked) < BATCH:
            self._next_look = now + PAUSE * len(self._clients)
        return bool(self._picked)


RETRY_AFTER = b"1"
"""Seconds."""

PATIENCE = 1.0
"""Seconds that the client may take to read it."""


def overload_response() -> bytes:
    """A whole HTTP/1.1 response: 503 with `Retry-After`."""
    return whole_response(
        Problem(503, "The server has as many connections as it takes.", headers=[(b"retry-after", RETRY_AFTER)])
    )


async def turn_away(stream: ClientStream) -> None:
    """Answers 503 before any request is read, and closes."""
    transport = Transport(stream, PATIENCE)
    try:
        with anyio.move_on_after(PATIENCE):
            await transport.write(overload_response())
            await transport.linger()
    finally:
        await anyio.aclose_forcefully(stream)
