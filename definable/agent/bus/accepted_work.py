"""One piece of accepted work, as a value that its owner closes: what it permits ends with it.

`WorkTracker` opens and closes the pieces; `Emitter` and `AgentRuntime.fire` ask which one they are called in. The
context variable only points to the piece: a task that a handler left behind inherits the pointer, and finds it closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar, Token
from types import TracebackType


class AcceptedWork:
    """One piece of accepted work: `with` holds it open.

    Args:
        owner: Whose work it is: what stops waits for its own work and takes events from it alone.
        occupies_worker: Whether one of the bus's workers is busy with it until its end.
    """

    __slots__ = ("_outer", "_token", "is_open", "occupies_worker", "owner")

    def __init__(self, owner: object, *, occupies_worker: bool = False) -> None:
        self.owner: object = owner
        self.occupies_worker: bool = occupies_worker
        self.is_open: bool = False
        self._outer: AcceptedWork | None = None
        """The piece in which it was begun, as a handler that calls the agent's own application in process does."""
        self._token: Token[AcceptedWork | None] | None = None

    def open(self) -> None:
        """Begin it; code that runs in this task, and tasks begun here, are in it until it is closed."""
        outer = _innermost.get()
        if outer is not None:  # only what is open: tasks that begin work in turn must not hold an ever longer chain
            self._outer = next(_open_from(outer), None)
        self._token = _innermost.set(self)
        self.is_open = True

    def close(self) -> None:
        """End it, in the task that opened it: from now on it permits nothing, whoever still points to it."""
        assert self._token is not None
        self.is_open = False
        _innermost.reset(self._token)

    def __enter__(self) -> AcceptedWork:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_innermost: ContextVar[AcceptedWork | None] = ContextVar("definable_accepted_work", default=None)


def is_in_work_of(owner: object) -> bool:
    """Whether the current code is part of accepted work of this owner that has not ended."""
    return any(work.owner is owner for work in _open_from(_innermost.get()))


def work_on_worker(owner: object) -> AcceptedWork | None:
    """The work on one of the owner's workers that the current code is part of and that has not ended."""
    return next((work for work in _open_from(_innermost.get()) if work.occupies_worker and work.owner is owner), None)


def _open_from(work: AcceptedWork | None) -> Iterator[AcceptedWork]:
    while work is not None:
        if work.is_open:
            yield work
        work = work._outer  # pyright: ignore[reportPrivateUsage]
