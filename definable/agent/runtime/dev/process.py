"""A serving child of development mode as its parent has it: its sockets and its process. POSIX only."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe

import anyio
import anyio.to_thread

from definable.agent.runtime.shutdown import ShutdownReport
from definable.server import BoundAddress, activated_sockets, listen

from .child import ENVIRONMENT, FORCE, STOP, receive, signal_at_close

FORCE_GRACE = 3.0
"""Seconds that a child gets to end once it was cut off; its event loop may be blocked."""

START_GRACE = 1.0
"""Seconds that a child which does not serve yet gets to end."""


class SharedSockets:
    """Listening sockets that the parent binds and every child inherits."""

    def __init__(self) -> None:
        self.address: BoundAddress | None = None
        """What they were bound for; None when there are none."""
        self.sockets: list[socket.socket] = []

    def bind(self, address: BoundAddress) -> OSError | None:
        """Have sockets of this address in place of others; returns why it cannot be bound."""
        self.close()
        try:
            self.address, self.sockets = address, activated_sockets() or listen(address)
        except OSError as error:
            self.address = None
            return error
        return None

    def close(self) -> None:
        """Have none."""
        for sock in self.sockets:
            sock.close()
        self.address, self.sockets = None, []


class ChildProcess:
    """One child: started, heard, stopped, and surely gone.

    Args:
        command: What to execute.
        shared: The sockets that it inherits; closed when it serves another address, or none.
        rebind: Whether another address is bound for the next child; else this one binds it.
    """

    def __init__(self, command: Sequence[str], shared: SharedSockets, *, rebind: bool = True) -> None:
        self._shared = shared
        self._rebind = rebind
        self._ended = anyio.Event()
        self._stops_within: float | None = None
        """Seconds that a stop may take; None until the child listens to us."""
        self.serves: anyio.Event = anyio.Event()
        self.wanted_address: BoundAddress | None = None
        """What is to be bound for the next child."""
        self.report: ShutdownReport | None = None
        """Once it has ended as it should."""
        self._channel, theirs = Pipe()
        descriptors = [sock.fileno() for sock in shared.sockets]
        environment = {**os.environ, ENVIRONMENT: f"{os.getpid()} {theirs.fileno()}"}
        with theirs, interrupts_blocked():
            self._channel.send((shared.address, descriptors, rebind))
            signal_at_close(theirs, True)  # before the child can switch it off
            self._process = subprocess.Popen(command, env=environment, pass_fds=(theirs.fileno(), *descriptors))
            fcntl.fcntl(theirs, fcntl.F_SETOWN, self._process.pid)

    @property
    def has_served(self) -> bool:
        """Whether it has come to serve, and may have accepted something."""
        return self.serves.is_set()

    async def run(self) -> int:
        """Listen to the child until it has ended; returns its exit status, negative for the signal that killed it."""
        status = 0
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, heard_out := anyio.Event())
                group.start_soon(self._kill_at_end)
                status = await anyio.to_thread.run_sync(self._process.wait)  # ends surely: see `_kill_at_end`
                self._ended.set()
                with anyio.move_on_after(START_GRACE):  # a process that it left behind may hold the channel open
                    await heard_out.wait()
                group.cancel_scope.cancel()
            return status
        finally:
            self._channel.close()

    async def stop(self, grace: float | None = None) -> None:
        """Have the child finish what it has accepted, cut it off after `grace` seconds, and kill it at last.

        Args:
            grace: None: for as long as the child was told to.
        """
        if self._stops_within is None:  # a signal more would count as the second one of a child that listens
            self._process.terminate()
            if await self._ends_within(START_GRACE):
                return
        if self._stops_within is not None:  # maybe since, and the signal has begun its stop
            self.order(STOP)
            if await self._ends_within(self._stops_within if grace is None else grace):
                return
            self.order(FORCE)
            if await self._ends_within(FORCE_GRACE):
                return
        self._process.kill()

    def order(self, order: str) -> None:
        """Send `STOP` or `FORCE` to the child, unless it is gone."""
        with suppress(OSError):
            self._channel.send(order)

    async def _kill_at_end(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._process.kill()

    async def _ends_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._ended.wait()
        return self._ended.is_set()

    async def _listen(self, heard_out: anyio.Event) -> None:
        while (message := await receive(self._channel)) is not None:
            match message:
                case ("begun", address, stops_within):
                    self._stops_within = stops_within
                    if address != self._shared.address:
                        self._shared.close()
                        self.wanted_address = address if self._rebind else None
                case ShutdownReport():
                    self.report = message
                case _:
                    self.serves.set()
        heard_out.set()


@contextmanager
def interrupts_blocked() -> Generator[None, None, None]:
    """Ctrl-C reaches what is started here only once it asks for it: a program that starts would answer a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def status_of(return_code: int) -> int:
    """An exit status as a shell has it: 128 and the signal's number for a process that was killed."""
    return return_code if return_code >= 0 else 128 - return_code
