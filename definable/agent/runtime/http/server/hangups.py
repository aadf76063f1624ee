"""Who hangs up while an application works: one task that watches all connections at once, and reads from none.

A run's client is watched as long as its run goes on. A task for each, which reads until there is no more to read, costs
as much time as the run itself and a third of its memory.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from types import TracebackType

import anyio

HANGUPS_ARE_TOLD = hasattr(select, "epoll")
"""Whether the system tells of them. Where it does not (macOS, Windows), whoever waits for one has to read."""


class HangupWatch:
    """Watches connections for the end of what their clients send."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], object]] = {}

    def watching(self, sock: socket.socket, tell: Callable[[], object]) -> Watching:
        """A context that calls `tell` if the client hangs up while it is open; one a socket at a time."""
        return Watching(self._epoll, self._told, sock.fileno(), tell)

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            await anyio.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0):
                self._told[fd]()

    def close(self) -> None:
        """Watches no more; the last context has been left."""
        self._epoll.close()


class Watching:
    """One client that is watched."""

    __slots__ = ("_epoll", "_fd", "_tell", "_told")

    def __init__(
        self, epoll: select.epoll, told: dict[int, Callable[[], object]], fd: int, tell: Callable[[], object]
    ) -> None:
        self._epoll = epoll
        self._told = told
        self._fd = fd
        self._tell = tell

    def __enter__(self) -> None:
        self._told[self._fd] = self._tell
        self._epoll.register(self._fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._told[self._fd]
        self._epoll.unregister(self._fd)
