"""Locks of sessions: one holder a session at a time, in arrival order; sessions never wait on each other.

Holders may come from several event loops at once (`agent.run()` in threads), so the queues are kept under a plain lock
and a waiter is woken in its own loop. `SessionService` alone uses them.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TypeAlias

import anyio

from definable.agent.run.context import current_run
from definable.concurrency.event_loop import EventLoopHandle
from definable.concurrency.logs import logger_named
from definable.errors import RunError

logger: logging.Logger = logger_named(__name__)

held_for_message: ContextVar[tuple[str, int] | None] = ContextVar("definable_session_of_message", default=None)
"""The session whose lock a chat message holds while its hooks are called, and the task that calls them."""


@contextmanager
def called_in_turn(session_id: str) -> Generator[None, None, None]:
    """Tell that hooks of a chat message are called while it holds the session's lock."""
    token = held_for_message.set((session_id, anyio.get_current_task().id))
    try:
        yield
    finally:
        held_for_message.reset(token)


class _Waiter:
    __slots__ = ("_loop", "called", "has_lock")

    def __init__(self) -> None:
        self.has_lock: anyio.Event = anyio.Event()
        self.called: bool = False
        """Whether it was given the lock, whether or not it has noticed yet."""
        self._loop = EventLoopHandle()

    def call(self) -> bool:
        """Give it the lock; False when its event loop has ended."""
        self.called = self._loop.call_soon(self.has_lock.set)
        return self.called


_Queue: TypeAlias = OrderedDict[_Waiter, None]
"""In arrival order; any waiter can leave it at once."""


class SessionLocks:
    """A lock for every session id."""

    __slots__ = ("_lock", "_queues")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue | None] = {}
        """Sessions that are locked, each with those who wait (None: nobody ever did)."""

    def lock(self, session_id: str) -> SessionLock:
        """A context in which the caller holds the session's lock."""
        return SessionLock(self, session_id)

    def __len__(self) -> int:
        """How many sessions are locked."""
        return len(self._queues)

    # --- for `SessionLock`

    def arrive(self, session_id: str) -> _Waiter | None:
        """Take the lock (None), or a place among those who wait for it."""
        with self._lock:
            if session_id not in self._queues:
                self._queues[session_id] = None
                return None
            queue = self._queues[session_id]
            if queue is None:
                queue = self._queues[session_id] = OrderedDict()
            queue[waiter := _Waiter()] = None
            return waiter

    def release(self, session_id: str) -> None:
        """Give the lock to the next."""
        with self._lock:
            queue = self._queues[session_id]
            while queue:
                waiter, _ = queue.popitem(last=False)
                if waiter.call():
                    return
            del self._queues[session_id]

    def give_up(self, session_id: str, waiter: _Waiter) -> None:
        """Wait no longer."""
        with self._lock:
            queue = self._queues.get(session_id)
            if queue and waiter in queue:
                del queue[waiter]
        if waiter.called:  # just now: pass it on
            self.release(session_id)


class SessionLock:
    """One caller's hold of a session's lock."""

    __slots__ = ("_locks", "_session_id")

    def __init__(self, locks: SessionLocks, session_id: str) -> None:
        self._locks = locks
        self._session_id = session_id

    async def __aenter__(self) -> None:
        waiter = self._locks.arrive(self._session_id)
        if waiter is None:
            return
        try:
            _check_deadlock(self._session_id)
            await waiter.has_lock.wait()
        except BaseException:
            self._locks.give_up(self._session_id, waiter)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locks.release(self._session_id)


def _check_deadlock(session_id: str) -> None:
    """An error where the caller certainly waits for itself. Whether an outer run waits for this one, or only began a
    task that makes it, cannot be told: that is a warning.
    """
    outer, held = current_run.get(), held_for_message.get()
    if held is not None and held == (session_id, anyio.get_current_task().id):
        raise RunError(
            f"a hook of a chat message cannot make a run in the message's own session {session_id!r}, which is locked "
            "until the message's run has ended: give the hook's run a session of its own, or none"
        )
    if outer is not None and outer.session_id == session_id:
        logger.warning(
            "run %s began another run in its own session %r, which waits for it to end: if it waits in turn, neither "
            "ends. Give the inner run a session of its own, or none",
            outer.run_id,
            session_id,
        )
    elif held is not None and held[0] == session_id:
        logger.warning(
            "a hook of a chat message began a run in the message's own session %r, which is locked until the message's "
            "run has ended: if the hook waits for it, neither ends. Give the hook's run a session of its own, or none",
            session_id,
        )
