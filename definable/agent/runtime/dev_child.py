"""The serving half of development mode: a process that a watching parent (`dev_reload.py`) has started."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from .dev_channel import ENVIRONMENT, FORCE, Inheritance, send_message
from .report import ShutdownReport, WorkCount
from .settings import ServeSettings
from .signals import STUCK_MARGIN

if TYPE_CHECKING:
    from .runtime import AgentRuntime

LAST_REQUESTS = 0.05
"""Seconds between the last accepted connection and the stop: its request, which is under way, is answered."""


class DevChild(TaskStatus[str | None]):
    """The child's end: binds or inherits the sockets, tells the parent how it goes, and stops when told.

    Args:
        inheritance: What the parent left.
    """

    def __init__(self, inheritance: Inheritance) -> None:
        self._channel = socket.socket(fileno=inheritance.channel)
        self._address = inheritance.address
        self._inherited = [socket.socket(fileno=descriptor) for descriptor in inheritance.sockets]
        for sock in (self._channel, *self._inherited):
            sock.set_inheritable(False)
        self._listening: list[socket.socket] = []

    @classmethod
    def claim(cls) -> DevChild | None:
        """This process's end, once; None when it is no child."""
        inheritance = Inheritance.find()
        if inheritance is None:
            return None
        del os.environ[ENVIRONMENT]
        return cls(inheritance)

    def begin(self, settings: ServeSettings) -> None:
        """Tell the parent how long a stop may take."""
        send_message(self._channel, {"event": "begun", "stops_within": settings.shutdown_timeout + STUCK_MARGIN})

    def listen(self, settings: ServeSettings) -> list[socket.socket]:
        """The listening sockets: those of the child before, or new ones where the address is another one now.

        Raises:
            OSError: The address cannot be bound.
        """
        from .http.server import bind  # heavy: an agent without HTTP never needs it

        address = (settings.host, settings.port)
        if self._inherited and self._address == address:
            self._listening, self._inherited = self._inherited, []
            return self._listening
        self.decline()
        try:
            self._listening = bind(*address)
        except OSError:
            send_message(self._channel, {"event": "cannot_bind"})
            raise
        message = {"event": "bound", "address": address}
        send_message(self._channel, message, self._listening)
        return self._listening

    def decline(self) -> None:
        """Close the sockets that were left to us and are not wanted."""
        for sock in self._inherited:
            sock.close()
        self._inherited = []

    def started(self, value: str | None = None) -> None:
        """Tell the parent that everything is ready; the child is the `task_status` of its runtime."""
        unblock_interrupts()
        send_message(self._channel, {"event": "serving"})

    def ended(self, report: ShutdownReport) -> None:
        """Tell the parent the account."""
        send_message(self._channel, {"event": "ended", "report": asdict(report)})

    def close(self) -> None:
        """Close the child's end."""
        self._channel.close()
        for sock in self._listening:
            sock.close()

    async def obey(self, runtime: AgentRuntime) -> None:
        """Stop the runtime when the parent says so, or is gone."""
        self._channel.setblocking(False)
        while True:
            await anyio.wait_readable(self._channel)
            try:
                words = self._channel.recv(64)
            except OSError:
                words = b""
            if FORCE in words:
                runtime.stop(force=True)
            else:
                await self._stop(runtime)
            if not words:
                return

    async def _stop(self, runtime: AgentRuntime) -> None:
        """Stop; who has connected gets an answer first, who connects from now on waits for the next child."""
        if runtime.http is not None:
            runtime.http.stop_accepting()
        with anyio.move_on_after(LAST_REQUESTS if self._listening else 0):
            await anyio.wait_readable(self._channel)  # a parent in a hurry
        runtime.stop()


def report_of(fields: Mapping[str, Any]) -> ShutdownReport:
    """A report that came over the channel."""
    return ShutdownReport(
        duration=fields["duration"],
        sources={name: WorkCount(**count) for name, count in fields["sources"].items()},
        forced=fields["forced"],
        stuck_threads=tuple(fields["stuck_threads"]),
    )


def unblock_interrupts() -> None:
    """Let Ctrl-C through, which the parent blocked lest it interrupt the start with a traceback."""
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
