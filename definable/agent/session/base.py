"""What a session is, and the protocol of a place that keeps sessions.

The runner loads a session before a run and saves it after one that succeeded; a run that fails or is cancelled leaves
the session as it was.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Any, Protocol, runtime_checkable

from definable.errors import ConfigurationError
from definable.frozen import frozen
from definable.model.message import Message


@frozen
class Session:
    """A conversation: whose it is, what was said, and the state that its runs share."""

    session_id: str
    user_id: str | None = None
    """Who began it; it belongs to nobody else."""
    messages: tuple[Message, ...] = ()
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    created_at: float = 0.0
    """Unix seconds."""
    updated_at: float = 0.0
    """Unix seconds."""


@runtime_checkable
class SessionStore(Protocol):
    """A place that keeps sessions.

    Every method may be called from any number of tasks at once, and from several event loops in several threads. A
    save is whole or does not happen, also when its caller is cancelled or the process dies.
    """

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold what the store needs (files, connections) while the context is open.

        An agent that serves opens its store; a store must work without it as well, for runs from a script.

        Raises:
            StorageError: The store cannot be reached.
        """
        ...

    async def load(self, session_id: str) -> Session | None:
        """The session, or None; the caller may change its `state` without changing what is stored.

        Raises:
            StorageError: The store failed.
        """
        ...

    async def save(self, session: Session) -> None:
        """Keep the session, in place of what was there under its id; later changes to its `state` are not kept.

        Raises:
            ConfigurationError: The session's state cannot be kept in this store.
            StorageError: The store failed.
        """
        ...

    async def delete(self, session_id: str) -> bool:
        """Forget the session; False when there was none.

        Raises:
            StorageError: The store failed.
        """
        ...


def checked_ttl(ttl: float | None) -> float | None:
    """A store's time to live, in seconds.

    Raises:
        ConfigurationError: It is neither None nor greater than 0.
    """
    if ttl is not None and not ttl > 0:
        raise ConfigurationError(f"ttl={ttl!r}: seconds, greater than 0, or None")
    return ttl
