"""The serving half of development mode: a process that a watching parent (`reload.py`) has started. POSIX only.

`entry.serve` claims it. The parent binds the listening sockets and every child inherits their descriptors. The two talk
over one pair of sockets, in pickled values: the child says what it serves, when it does and what became of it; the
parent says `STOP` and `FORCE`. Either end closes when its process dies, so neither outlives the other unknowingly.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from definable.agent.runtime.settings import ServeSettings
from definable.agent.runtime.shutdown import ShutdownReport
from definable.agent.runtime.signals import STUCK_MARGIN

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from definable.agent.runtime.runtime import AgentRuntime

ENVIRONMENT = "DEFINABLE_DEV_CHILD"
"""The environment variable that makes a process a child: its parent's process id, and the channel's descriptor."""

STOP = "stop"
"""Finish what was accepted, and end."""

FORCE = "force"
"""Cut off what is under way."""

LAST_REQUESTS = 0.05
"""Seconds between the last accepted connection and the stop: its request, which is under way, is answered."""


def is_child() -> bool:
    """Whether a watching parent has started this process; its own children inherit the environment, and are none."""
    return os.environ.get(ENVIRONMENT, "").startswith(f"{os.getppid()} ")


class DevChild(TaskStatus[str | None]):
    """The child's end: takes over the sockets, reports to the parent, and stops when the parent says so.

    Args:
        channel: Its first message is what the parent leaves: the address of the sockets, their descriptors, and whether
            it binds another address on request.
    """

    def __init__(self, channel: Connection) -> None:
        self._channel = channel
        signal_at_close(channel, False)  # from here on its end begins a stop
        self._address, descriptors, self._parent_binds = channel.recv()
        self._inherited = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for descriptor in (channel.fileno(), *descriptors):
            os.set_inheritable(descriptor, False)

    @classmethod
    def claim(cls) -> DevChild | None:
        """This process's end, once; None when it is no child."""
        if not is_child():
            return None
        from multiprocessing.connection import Connection  # whoever serves asks `is_child`, and few are

        return cls(Connection(int(os.environ.pop(ENVIRONMENT).split()[1])))

    def begin(self, settings: ServeSettings, *, serves_http: bool) -> Sequence[socket.socket]:
        """Report what will be served, and how long a stop may take.

        Returns:
            The sockets to serve on; none without HTTP, or where the service binds the address itself.

        Raises:
            SystemExit: The parent keeps sockets of another address; it binds this one, and starts another child.
        """
        address = settings.address if serves_http else None
        self._send(("begun", address, settings.shutdown_timeout + STUCK_MARGIN))
        if address != self._address:
            self._close_sockets()
            if address is not None and self._parent_binds:
                raise SystemExit(0)
        return self._inherited

    def started(self, value: str | None = None) -> None:
        """Report that everything is ready; the child is the `task_status` of its runtime."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by the parent while this process starts
        self._send("serving")

    def ended(self, report: ShutdownReport) -> None:
        """Hand the parent the report."""
        self._send(report)

    def close(self) -> None:
        """Close the child's end."""
        self._channel.close()
        self._close_sockets()

    async def obey(self, runtime: AgentRuntime) -> None:
        """Stop the runtime when the parent says so, or is gone."""
        order = ""
        while order is not None:
            order = await receive(self._channel)
            if order == FORCE:
                runtime.stop(force=True)
            else:
                await self._stop(runtime)

    async def _stop(self, runtime: AgentRuntime) -> None:
        """Stop; who has connected gets an answer first, who connects from now on waits for the next child."""
        if runtime.http is not None:
            runtime.http.stop_accepting()
        with anyio.move_on_after(LAST_REQUESTS if self._inherited else 0):
            await anyio.wait_readable(self._channel)  # a parent that cannot wait
        runtime.stop()

    def _send(self, message: object) -> None:
        with suppress(OSError):  # the parent is gone: `obey` sees it
            self._channel.send(message)

    def _close_sockets(self) -> None:
        for sock in self._inherited:
            sock.close()
        self._inherited = []


async def receive(channel: Connection) -> Any:
    """The next message of the other end; None once that is closed."""
    await anyio.wait_readable(channel)
    try:
        return channel.recv()
    except (EOFError, OSError):
        return None


def signal_at_close(channel: Connection, wanted: bool) -> None:
    """Have the kernel send SIGIO, which ends a process, to the owner of a channel once its other end is closed.

    So a child whose parent is killed ends also while its program is starting, whatever that is doing. Linux alone:
    elsewhere SIGIO is ignored by default, and a child notices that its parent is gone when it serves.
    """
    import fcntl  # POSIX only, as development mode is

    flags = fcntl.fcntl(channel, fcntl.F_GETFL)
    fcntl.fcntl(channel, fcntl.F_SETFL, flags | fcntl.FASYNC if wanted else flags & ~fcntl.FASYNC)
