"""Runs of one session one after the other, in arrival order; runs of different sessions never wait on each other.

Runs may come from several event loops at once (`agent.run()` in threads), so the lines are kept under a plain lock and
a waiter is woken in its own loop.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

import anyio

from definable.agent.event_loop import EventLoopHandle


class _Waiter:
    __slots__ = ("loop", "turn")

    def __init__(self) -> None:
        self.turn = anyio.Event()
        self.loop = EventLoopHandle()


class SessionGate:
    """Who may run in which session now."""

    __slots__ = ("_lines", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, deque[_Waiter] | None] = {}
        """Sessions in which somebody runs, each with those who wait (None: nobody ever did)."""

    def turn(self, session_id: str) -> SessionTurn:
        """A context that is entered when it is the caller's turn in the session."""
        return SessionTurn(self, session_id)

    def _arrive(self, session_id: str) -> _Waiter | None:
        with self._lock:
            if session_id not in self._lines:
                self._lines[session_id] = None
                return None
            line = self._lines[session_id]
            if line is None:
                line = self._lines[session_id] = deque()
            line.append(waiter := _Waiter())
            return waiter

    def _leave(self, session_id: str) -> None:
        with self._lock:
            line = self._lines[session_id]
            while line:
                waiter = line.popleft()
                if waiter.loop.call_soon(waiter.turn.set):
                    return
            del self._lines[session_id]

    def _give_up(self, session_id: str, waiter: _Waiter) -> None:
        with self._lock:
            line = self._lines.get(session_id)
            if line and waiter in line:
                line.remove(waiter)
                return
        self._leave(session_id)  # it was this waiter's turn already: pass it on


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
            await waiter.turn.wait()
        except BaseException:
            self._gate._give_up(self._session_id, waiter)  # pyright: ignore[reportPrivateUsage]
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate._leave(self._session_id)  # pyright: ignore[reportPrivateUsage]
