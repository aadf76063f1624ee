"""Who hangs up while an application works: told by the event loop, to whom it matters, and nobody has to read for it.

A run's client is watched as long as its run goes on. A task for each, which reads until there is no more to read, costs
as much time as the run itself and a third of its memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType

from anyio.abc import ByteStream


class ClientStream(ByteStream):
    """A client's connection, which knows without being read from that the client sends no more."""

    @property
    def tells_hangups(self) -> bool:
        """Whether it does, on this system."""
        return True

    @property
    def has_received(self) -> bool:
        """Whether it holds bytes that nobody has taken yet; what waits in the system's buffer is not among them."""
        return False

    @abstractmethod
    def on_hangup(self, tell: Callable[[], object] | None) -> None:
        """Has the event loop call `tell` once the client hangs up, soon if it has already; None: nobody any more."""

    @abstractmethod
    def abort(self) -> None:
        """Closes the connection, whatever waits to be written; whoever waits for it is told."""


class UntilHangup:
    """A context that calls a function if the client hangs up while it is open; one a connection at a time.

    Args:
        connection: The client's.
        tell: What to call.
    """

    __slots__ = ("_connection", "_tell")

    def __init__(self, connection: ClientStream, tell: Callable[[], object]) -> None:
        self._connection = connection
        self._tell = tell

    def __enter__(self) -> None:
        self._connection.on_hangup(self._tell)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.on_hangup(None)
