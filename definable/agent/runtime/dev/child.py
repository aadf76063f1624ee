"""The serving half of development mode: a process that a watching parent (`reload.py`) has started.

What a watching parent and its child tell each other: POSIX only, over one pair of Unix sockets.

The parent (`reload.py`) leaves an `Inheritance` in the child's environment. The child (`child.py`) says when it
has bound its sockets (and sends them along, for the child after it), when it serves, and what its account is; the
parent says `STOP` and `FORCE`. Either end closes when its process dies, so neither outlives the other unknowingly.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from definable.agent.report import ShutdownReport, WorkCount
from definable.agent.runtime.settings import ServeSettings
from definable.agent.runtime.signals import STUCK_MARGIN

if TYPE_CHECKING:
    from definable.agent.runtime.runtime import AgentRuntime


ENVIRONMENT = "DEFINABLE_DEV_CHILD"
"""The environment variable that makes a process a child."""

STOP = b"s"
"""Finish what was accepted, and end."""

FORCE = b"f"
"""Cut off what is under way."""

MAX_SOCKETS = 16
"""Listening sockets that are handed over: one for each address of a host name."""

CHUNK = 65536
"""Bytes read at once."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a child finds in its environment: file descriptors, and what they are."""

    parent: int
    """Whose child finds it: the environment reaches that one's children too."""
    channel: int
    address: tuple[str, int] | None = None
    """The host and port that the sockets were bound for; None when there are none yet."""
    sockets: tuple[int, ...] = ()

    @classmethod
    def find(cls) -> Inheritance | None:
        """This process's inheritance; None when it is no child."""
        text = os.environ.get(ENVIRONMENT)
        if text is None:
            return None
        fields = json.loads(text)
        if fields["parent"] != os.getppid():
            return None
        address = fields["address"]
        address = None if address is None else (address[0], address[1])
        return cls(fields["parent"], fields["channel"], address, tuple(fields["sockets"]))

    def environment(self) -> dict[str, str]:
        """The environment of a child."""
        return {**os.environ, ENVIRONMENT: json.dumps(asdict(self))}


class MessageReader:
    """The messages that a child sends, at the parent's end.

    Args:
        channel: The parent's socket; non-blocking.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._text = b""
        self._sockets: list[socket.socket] = []

    async def next(self) -> Mapping[str, Any] | None:
        """The next message; None when the child's end is closed."""
        while b"\n" not in self._text:
            await anyio.wait_readable(self._channel)
            try:
                data, descriptors, _, _ = socket.recv_fds(self._channel, CHUNK, MAX_SOCKETS)
            except OSError:
                return None
            self._sockets += [socket.socket(fileno=descriptor) for descriptor in descriptors]
            if not data:
                return None
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return json.loads(line)

    def take_sockets(self) -> list[socket.socket]:
        """The sockets that came along; the caller's to close."""
        sockets, self._sockets = self._sockets, []
        return sockets

    def close(self) -> None:
        """Close what nobody took."""
        for sock in self.take_sockets():
            sock.close()


def send_message(channel: socket.socket, message: Mapping[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
    """Send a message from the child's end; a parent that is gone is no error, its end says so."""
    data = json.dumps(message).encode() + b"\n"
    try:
        if sockets:
            sent = socket.send_fds(channel, [data], [sock.fileno() for sock in sockets])
            data = data[sent:]
        channel.sendall(data)
    except OSError:
        return


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
        from definable.server import bind  # heavy: an agent without HTTP never needs it

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
