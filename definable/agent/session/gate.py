"""Runs of one session one after the other, in arrival order; runs of different sessions never wait on each other.

Runs may come from several event loops at once (`agent.run()` in threads), so the lines are kept under a plain lock and
a waiter is woken in its own loop.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from types import TracebackType
from typing import TypeAlias

import anyio

from definable.agent.event_loop import EventLoopHandle
from definable.agent.run_context import current_run

logger: logging.Logger = logging.getLogger(__name__)


class _Waiter:
    __slots__ = ("_loop", "called", "turn")

    def __init__(self) -> None:
        self.turn = anyio.Event()
        self.called = False
        """Whether it was given its turn, whether or not it has noticed yet."""
        self._loop = EventLoopHandle()

    def call(self) -> bool:
        """Give it its turn; False when its event loop has ended."""
        self.called = self._loop.call_soon(self.turn.set)
        return self.called


_Line: TypeAlias = OrderedDict[_Waiter, None]
"""In arrival order; any waiter can leave it at once."""


class SessionGate:
    """Who may run in which session now."""

    __slots__ = ("_lines", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, _Line | None] = {}
        """Sessions in which somebody runs, each with those who wait (None: nobody ever did)."""

    def turn(self, session_id: str) -> SessionTurn:
        """A context that is entered when it is the caller's turn in the session."""
        return SessionTurn(self, session_id)

    def __len__(self) -> int:
        """In how many sessions somebody runs."""
        return len(self._lines)

    def _arrive(self, session_id: str) -> _Waiter | None:
        with self._lock:
            if session_id not in self._lines:
                self._lines[session_id] = None
                return None
            line = self._lines[session_id]
            if line is None:
                line = self._lines[session_id] = OrderedDict()
            line[waiter := _Waiter()] = None
            return waiter

    def _leave(self, session_id: str) -> None:
        with self._lock:
            line = self._lines[session_id]
            while line:
                waiter, _ = line.popitem(last=False)
                if waiter.call():
                    return
            del self._lines[session_id]

    def _give_up(self, session_id: str, waiter: _Waiter) -> None:
        with self._lock:
            line = self._lines.get(session_id)
            if line and waiter in line:
                del line[waiter]
        if waiter.called:  # just now: pass it on
            self._leave(session_id)


class SessionTurn:
    """One run's turn in its session."""

    __slots__ = ("_gate", "_session_id")

    def __init__(self, gate: SessionGate, session_id: str) -> None:
        self._gate = gate
        self._session_id = session_id

    async def __aenter__(self) -> None:
        waiter = self._gate._arrive(self._session_id)  # pyright: ignore[reportPrivateUsage]
        if waiter is None:
            return
        try:
            _warn_of_deadlock(self._session_id)
            await waiter.turn.wait()
        except BaseException:
            self._gate._give_up(self._session_id, waiter)  # pyright: ignore[reportPrivateUsage]
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate._leave(self._session_id)  # pyright: ignore[reportPrivateUsage]


def _warn_of_deadlock(session_id: str) -> None:
    """No error: whether the outer run waits for this one, or only began a task that makes it, cannot be told."""
    outer = current_run.get()
    if outer is not None and outer.session_id == session_id:
        logger.warning(
            "run %s began another run in its own session %r, which waits for it to end: if it waits in turn, neither "
            "ends. Give the inner run a session of its own, or none",
            outer.run_id,
            session_id,
        )
