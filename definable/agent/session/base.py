"""What a session is, and the protocols of a place that keeps sessions.

`SessionService` alone calls a store: it loads a session before a run and saves it after one that succeeded; a run that
fails or is cancelled leaves the session as it was.

What becomes of two runs that began with the same session (`merged`) is here too: `SessionService` merges when a store
refuses a save, since another replica has saved meanwhile.
"""

from __future__ import annotations

import copy
from contextlib import AbstractAsyncContextManager
from dataclasses import field, replace
from typing import Any, Protocol, runtime_checkable

from definable.errors import ConfigurationError, SessionConflict
from definable.frozen import frozen
from definable.model.message import Message

from .history import bounded


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
    version: str | None = field(default=None, compare=False, repr=False)
    """Which save of the session this is: opaque, set by the store at every save and given by `load`. None: it is not
    known, and a save replaces whatever is stored. `NOT_STORED`: there was none."""


NOT_STORED = ""
"""The version of a session that is not stored: a save refuses when another has begun one of its id."""


@runtime_checkable
class SessionStore(Protocol):
    """A place that keeps sessions.

    Every method may be called from any number of tasks at once, and from several event loops in several threads. A
    save is whole or does not happen, also when its caller is cancelled or the process dies.

    A store that several processes share gives every session that it loads a `version`, and refuses a save
    (`SessionConflict`) when the version of the session to be saved is not None and another one is stored: what both
    have added is merged then, and saved again. In a store that leaves `version` None the last save wins.

    A store may also have the method of `AppendingStore`, and those of `ConversationStore`.
    """

    def open(self) -> AbstractAsyncContextManager[None]:
        """Hold what the store needs (files, connections) while the context is open.

        An agent that serves opens its store; a store must work without it as well, for runs from a script.

        Raises:
            StorageError: The store cannot be reached.
        """
        ...

    async def load(self, session_id: str) -> Session | None:
        """The session, or None; this is a use of it. The caller may change its `state`, and no other sees it.

        Raises:
            StorageError: The store failed.
        """
        ...

    async def save(self, session: Session) -> None:
        """Keep the session, in place of what was there under its id; later changes to its `state` are not kept.

        Raises:
            ConfigurationError: The session's state cannot be kept in this store.
            SessionConflict: Another version is stored than the session's; nothing was changed.
            StorageError: The store failed.
        """
        ...

    async def delete(self, session_id: str) -> bool:
        """Forget the session; False when there was none.

        Raises:
            StorageError: The store failed.
        """
        ...


@runtime_checkable
class AppendingStore(Protocol):
    """What a session store may have besides: a save that costs what a run has added, however long the session is."""

    async def append(self, session: Session, gone: int, added: int) -> None:
        """Keep the session, whose messages are the stored ones without the oldest and with some behind them.

        Args:
            session: The whole session, with the version that was loaded, which is not None.
            gone: How many of the oldest messages are to be forgotten.
            added: How many of the newest are not stored yet.

        Raises:
            ConfigurationError: The session's state cannot be kept in this store.
            SessionConflict: Another version is stored than the session's; nothing was changed.
            StorageError: The store failed.
        """
        ...


@runtime_checkable
class ConversationStore(Protocol):
    """What a session store may have besides: which session a chat's conversation is, apart from the sessions.

    Without it that is remembered in the process, and a chat begins anew after a restart.
    """

    @property
    def ttl(self) -> float | None:
        """Seconds after its last use (`find` or `point`) after which it may be forgotten; None for never."""
        ...

    async def find(self, key: str) -> str | None:
        """The id of the session that a chat's conversation is, or None; this is a use of it.

        Args:
            key: Names a user's chat.

        Raises:
            StorageError: The store failed.
        """
        ...

    async def point(self, key: str, session_id: str) -> None:
        """Remember that a chat's conversation is a session, in place of the one that it was.

        Args:
            key: Names a user's chat.
            session_id: The session, which need not be stored yet.

        Raises:
            StorageError: The store failed.
        """
        ...


def copied_state(session_id: str, state: dict[str, Any]) -> dict[str, Any]:
    """A copy that has nothing in common with the state.

    Raises:
        ConfigurationError: It holds what cannot be copied.
    """
    if not state:
        return {}
    try:
        return copy.deepcopy(state)
    except Exception as error:
        raise ConfigurationError(
            f"the session_state of {session_id!r} cannot be kept, it must be copyable: {error}"
        ) from error


def conflict(session_id: str) -> SessionConflict:
    """What a store raises that has another version of a session."""
    return SessionConflict(f"the session {session_id!r} was not saved: another has saved it since it was loaded")


def checked_ttl(ttl: float | None) -> float | None:
    """A store's time to live, in seconds.

    Raises:
        ConfigurationError: It is neither None nor greater than 0.
    """
    if ttl is not None and not ttl > 0:
        raise ConfigurationError(f"ttl={ttl!r}: seconds, greater than 0, or None")
    return ttl


def merged(base: Session, mine: Session, theirs: Session) -> Session:
    """What I made of `base`, on top of what somebody else has made of it in the meantime.

    What I have said comes behind what they have said. Of the state, the keys that I have changed are mine.
    """
    gone, added = change(base.messages, mine.messages)
    messages = theirs.messages + mine.messages[len(mine.messages) - added :]
    if gone:  # mine was as long as it may be
        messages = bounded(messages, max(len(mine.messages), len(theirs.messages)))
    created_at = theirs.created_at or mine.created_at
    return replace(mine, messages=messages, state=_state(base.state, mine.state, theirs.state), created_at=created_at)


def change(before: tuple[Message, ...], after: tuple[Message, ...]) -> tuple[int, int]:
    """How many of the oldest messages were cut off, and how many of the newest came."""
    for gone in range(len(before)):
        kept = before[gone:]
        if after[: len(kept)] == kept:
            return gone, len(after) - len(kept)
    return len(before), len(after)


def _state(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in theirs.items() if key in mine or key not in base}
    return result | {key: value for key, value in mine.items() if key not in base or base[key] != value}
