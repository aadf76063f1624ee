"""One child of development mode, as its parent (`dev_reload.py`) sees it: started, heard, stopped, and surely gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from .dev_channel import FORCE, STOP, Inheritance, MessageReader
from .dev_child import report_of
from .report import ShutdownReport
from .signals import STUCK_MARGIN

FORCE_GRACE = 3.0
"""Seconds that a child gets to end once it was cut off; its event loop may be blocked."""

START_GRACE = 1.0
"""Seconds that a child which does not serve yet gets to end."""

TIE = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    os._exit(128 + signal.SIGTERM)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux for a signal when the parent dies (prctl(2); kept over `exec`), and becomes the program behind it."""


@dataclass(slots=True)
class KeptSockets:
    """Listening sockets that outlive the children, so that connections queue between two of them."""

    address: tuple[str, int] | None = None
    sockets: list[socket.socket] = field(default_factory=list[socket.socket])

    def keep(self, address: tuple[str, int], sockets: list[socket.socket]) -> None:
        """Keep these, and no others."""
        self.close()
        self.address, self.sockets = address, sockets

    def close(self) -> None:
        """Keep none."""
        for sock in self.sockets:
            sock.close()
        self.address, self.sockets = None, []


class DevProcess:
    """A child process.

    Args:
        command: What to execute.
        kept: The listening sockets: those that it inherits, and those that it lends.
        on_serving: Called when it serves.
    """

    def __init__(self, command: Sequence[str], kept: KeptSockets, on_serving: Callable[[], object]) -> None:
        self._kept = kept
        self._on_serving = on_serving
        self._ended = anyio.Event()
        self._heard_out = anyio.Event()
        self._stops_within = STUCK_MARGIN
        self._obeys = False
        self.has_served: bool = False
        """Whether it has come to serve, and may have accepted something."""
        self.could_not_bind: bool = False
        """Whether the address was not to be had."""
        self.report: ShutdownReport | None = None
        """Its account, once it has ended as it should."""
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        descriptors = [theirs.fileno(), *[sock.fileno() for sock in kept.sockets]]
        inheritance = Inheritance(os.getpid(), descriptors[0], kept.address, tuple(descriptors[1:]))
        with theirs, interrupts_blocked():
            self._process = subprocess.Popen(
                tied_to_parent(command), env=inheritance.environment(), pass_fds=descriptors
            )

    async def run(self) -> int:
        """Listen to the child until it has ended.

        Returns:
            Its exit status, negative for the signal that killed it.
        """
        status = 0
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._kill_at_end)
                group.start_soon(self._listen)
                status = await anyio.to_thread.run_sync(self._process.wait)  # ends surely: see `_kill_at_end`
                self._ended.set()
                with anyio.move_on_after(START_GRACE):
                    await self._heard_out.wait()
                group.cancel_scope.cancel()
            return status
        finally:
            self._channel.close()

    async def stop(self, grace: float | None = None) -> None:
        """Have the child finish what it has accepted, cut it off after `grace` seconds, and kill it at last.

        Args:
            grace: None: for as long as the child was told to.
        """
        if not self._obeys:  # a signal more would count as the second one of a child that obeys
            self._process.terminate()
            with anyio.move_on_after(START_GRACE):
                await self._ended.wait()
                return
        if self._obeys:  # maybe since, and the signal has begun its stop
            self.say(STOP)
            with anyio.move_on_after(self._stops_within if grace is None else grace):
                await self._ended.wait()
                return
            self.say(FORCE)
            with anyio.move_on_after(FORCE_GRACE):
                await self._ended.wait()
                return
        self._process.kill()

    async def stop_within_its_own_bound(self) -> None:
        """Have the child finish what it has accepted, for as long as it was told to."""
        await self.stop()

    def say(self, word: bytes) -> None:
        """Tell the child; one that is gone is none the wiser."""
        try:
            self._channel.send(word)
        except OSError:
            return

    async def _kill_at_end(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._process.kill()

    async def _listen(self) -> None:
        reader = MessageReader(self._channel)
        try:
            while (message := await reader.next()) is not None:
                match message["event"]:
                    case "bound":
                        host, port = message["address"]
                        self._kept.keep((host, port), reader.take_sockets())
                    case "cannot_bind":
                        self.could_not_bind = True
                    case "begun":
                        self._obeys, self._stops_within = True, message["stops_within"]
                    case "serving":
                        self.has_served = True
                        self._on_serving()
                    case _:
                        self.report = report_of(message["report"])
        finally:
            reader.close()
            self._heard_out.set()


@contextmanager
def interrupts_blocked() -> Generator[None, None, None]:
    """Ctrl-C reaches what is started here only once it asks for it: a program that starts would answer a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """The command, run so that Linux ends it with its parent, however that dies.

    Elsewhere the closed channel tells a child that serves, and one that does not serve yet ends when it comes to.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", TIE, str(os.getpid()), *command]
