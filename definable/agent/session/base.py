"""What a session is, and the protocol of a place that keeps sessions.

`SessionService` alone calls a store: it loads a session before a run and saves it after one that succeeded; a run that
fails or is cancelled leaves the session as it was.

Messages and session states as bytes: what the stores beyond this process's memory keep.

The bytes are compact JSON in UTF-8. A model may write half of a surrogate pair, which UTF-8 proper cannot hold: it is
passed through, as `json.loads` reads it.
"""

from __future__ import annotations

import copy
import json
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Any, Protocol, cast, runtime_checkable

from definable.errors import ConfigurationError, SessionConflict, StorageError
from definable.frozen import frozen
from definable.model.message import Message, message_from_json, message_to_json


def encode_message(message: Message) -> bytes:
    """The message as bytes; the same bytes whenever the message is the same."""
    return _encode(message_to_json(message))


def decode_message(body: bytes) -> Message:
    """The message of `encode_message`'s bytes, also of those that a newer version wrote.

    Raises:
        StorageError: The bytes are no message.
    """
    try:
        return message_from_json(json.loads(body))
    except ValueError as error:
        raise StorageError(f"a stored message cannot be read: {error}") from error


def encode_state(session_id: str, state: dict[str, Any]) -> bytes:
    """A session's state as bytes.

    Args:
        session_id: Whose state it is; for the error.
        state: What to encode. As everywhere in JSON, keys come back as strings and tuples as lists.

    Raises:
        ConfigurationError: The state holds what JSON cannot.
    """
    try:
        return _encode(state)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the session_state of {session_id!r} cannot be stored, this store keeps JSON: {error}"
        ) from error


def decode_state(body: bytes) -> dict[str, Any]:
    """The state of `encode_state`'s bytes.

    Raises:
        StorageError: The bytes are no state.
    """
    try:
        state: object = json.loads(body)
    except ValueError as error:
        raise StorageError(f"a stored session_state cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise StorageError(f"a stored session_state cannot be read: it is a {type(state).__name__}, not an object")
    return cast("dict[str, Any]", state)


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


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

    A store may also have the methods of `ConversationStore`. Without them, which conversation a chat goes on with is
    remembered in the process, and a chat begins anew after a restart.
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
class ConversationStore(Protocol):
    """What a session store may have besides: which session a chat's conversation is, apart from the sessions."""

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
