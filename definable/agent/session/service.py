"""The only caller of a session store: a session is loaded, changed and saved by whoever holds its lock.

Runs, chat messages and the HTTP API come through here, so that nobody overwrites what another has said. Within the
process one waits for the other; beyond it the store compares versions, and what both have added is merged.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import anyio

from definable.concurrency.call import closing_what_it_leaves
from definable.concurrency.clock import current_clock
from definable.errors import RunTimeout, SessionConflict, SessionNotFound, StorageError

from .base import NOT_STORED, ConversationStore, Session, SessionStore, change, copied_state, merged
from .locks import SessionLock, SessionLocks

MAX_POINTERS = 100_000
"""Chats whose conversations are remembered in the process, where the store does not remember them."""

NOTED_USE = 0.01
"""Of a store's time to live: a conversation that is used sooner after the use before is not looked up again."""

MAX_SAVES = 100
"""How often a save is tried while others save the same session; each time one of them succeeds."""


class SessionService:
    """An agent's sessions.

    Args:
        store: Where they are kept.
        wait_timeout: Seconds that a chat message waits for its session's turn; None for no limit. Runs that take their
            turn themselves have a deadline of their own.
    """

    __slots__ = ("_locks", "_pointer_uses", "_pointers", "store", "wait_timeout")

    def __init__(self, store: SessionStore, wait_timeout: float | None = None) -> None:
        self.store: SessionStore = store
        self.wait_timeout: float | None = wait_timeout
        self._locks = SessionLocks()
        self._pointers = ProcessPointers()
        self._pointer_uses: OrderedDict[str, float] = OrderedDict()
        """When what leads to a conversation was last used in its store, in Unix seconds."""

    def turn(self, session_id: str) -> SessionTurn:
        """A context that is entered when it is the caller's turn in the session, in arrival order."""
        return SessionTurn(self, session_id, self._locks.lock(session_id))

    def new(self, session_id: str, user_id: str | None) -> SessionTurn:
        """The turn in a session whose id nobody else can know: there is nothing to wait for, and nothing to load."""
        turn = SessionTurn(self, session_id, None)
        turn.session = Session(session_id, user_id)
        return turn

    async def look_up(self, session_id: str) -> Session | None:
        """A session as it is stored now, to be looked at; a run that is under way in it has not been saved yet.

        Raises:
            StorageError: The store failed.
        """
        session = await self.read(session_id)
        return None if session is None or is_former_pointer(session) else session

    async def forget(self, session_id: str) -> bool:
        """Forget a session, in its turn: a run that is under way in it would save it back.

        Returns:
            False when there was none.

        Raises:
            StorageError: The store failed.
        """
        async with self._locks.lock(session_id):
            return await closing_what_it_leaves(self.store.delete, self.store.delete, session_id)

    async def change_state(self, session_id: str, before: dict[str, Any], after: dict[str, Any]) -> Session | None:
        """Make the changes between two states to the session's own, in a turn of its own.

        Returns:
            The session, None where it is no longer stored.

        Raises:
            ConfigurationError: The state cannot be kept in the store.
            StorageError: The store failed.
        """
        async with self.turn(session_id) as turn:
            session = await turn.load()
            if session.version == NOT_STORED:
                return None
            base = Session(session_id, state=before)
            state = merged(base, Session(session_id, state=after), Session(session_id, state=session.state)).state
            await turn.save(replace(session, state=state, updated_at=time.time()))
            return turn.session

    async def set_state(self, session_id: str, user_id: str, name: str, value: str) -> None:
        """Set one value of a session's state at once, beside a run in its turn: what both save is merged.

        Args:
            session_id: The session, which need not be stored yet.
            user_id: Whose a new session is.
            name: Of the value.
            value: What it is.

        Raises:
            StorageError: The store failed.
        """
        turn = SessionTurn(self, session_id, None)
        session = await turn.load(user_id)
        now = time.time()
        state, created_at = {**session.state, name: value}, session.created_at or now
        await turn.save(replace(session, state=state, created_at=created_at, updated_at=now))

    # --- which session a chat's conversation is

    async def find(self, key: str) -> str | None:
        """The id of the session that a chat's conversation is, or None.

        Args:
            key: Names a user's chat.

        Raises:
            StorageError: The store failed.
        """
        found = await self._conversations.find(key)
        if found is not None:
            self._note_use(key)
            return found
        former = await self.read(key)  # earlier versions kept it among the sessions, under the chat's name: it is moved
        if former is None or not is_former_pointer(former):
            return None
        session_id = str(former.state["session_id"])
        await self.point(key, session_id)
        await self.forget(key)
        return session_id

    async def point(self, key: str, session_id: str) -> None:
        """Remember that a chat's conversation is a session.

        Args:
            key: Names a user's chat.
            session_id: The session.

        Raises:
            StorageError: The store failed.
        """
        await self._conversations.point(key, session_id)
        self._note_use(key)

    async def keep_pointer(self, key: str, session_id: str) -> None:
        """Use what leads to a conversation, for a store that forgets what is unused.

        Raises:
            StorageError: The store failed.
        """
        ttl, used_at = self._conversations.ttl, self._pointer_uses.get(key, -math.inf)
        if ttl is None or current_clock().now() - used_at < ttl * NOTED_USE:
            return
        if await self._conversations.find(key) is None:
            await self._conversations.point(key, session_id)
        self._note_use(key)

    def _note_use(self, key: str) -> None:
        if self._conversations.ttl is not None:
            self._pointer_uses[key] = current_clock().now()
            self._pointer_uses.move_to_end(key)
            if len(self._pointer_uses) > MAX_POINTERS:
                self._pointer_uses.popitem(last=False)

    @property
    def _conversations(self) -> ConversationStore:
        return self.store if isinstance(self.store, ConversationStore) else self._pointers

    # --- for `SessionTurn`

    async def read(self, session_id: str) -> Session | None:
        """The session as the store has it."""
        session = await closing_what_it_leaves(self.store.load, self.store.load, session_id)
        if session is not None and session.version == NOT_STORED:  # a store without versions gives back what it got
            return replace(session, version=None)
        return session

    async def write(self, base: Session | None, session: Session) -> Session:
        """Save what was made of `base`, on top of what others have saved meanwhile; returns what was saved."""
        append = getattr(self.store, "append", None)  # an `AppendingStore`'s
        try:
            if append is None or base is None or session.version is None:
                await closing_what_it_leaves(self.store.save, self.store.save, session)
            else:
                gone, added = change(base.messages, session.messages)
                await closing_what_it_leaves(append, append, session, gone, added)
        except SessionConflict:
            if base is None:
                raise
            return await self._write_merged(base, session)
        return session

    async def _write_merged(self, base: Session, mine: Session) -> Session:
        session_id = mine.session_id
        for _ in range(MAX_SAVES):
            theirs = await self.read(session_id)
            if theirs is not None and theirs.user_id not in (base.user_id, mine.user_id):
                raise SessionNotFound(f"there is no session {session_id!r}")
            version = NOT_STORED if theirs is None else theirs.version
            session = replace(merged(base, mine, theirs or Session(session_id)), version=version)
            with suppress(SessionConflict):
                await closing_what_it_leaves(self.store.save, self.store.save, session)
                return session
        raise StorageError(f"the session {session_id!r} was not saved: others saved it {MAX_SAVES} times meanwhile")


class ProcessPointers(ConversationStore):
    """Which sessions chats' conversations are, for a store that does not remember it."""

    def __init__(self) -> None:
        self._pointers: OrderedDict[str, str] = OrderedDict()

    @property
    def ttl(self) -> None:
        return None

    async def find(self, key: str) -> str | None:
        return self._pointers.get(key)

    async def point(self, key: str, session_id: str) -> None:
        self._pointers[key] = session_id
        self._pointers.move_to_end(key)
        if len(self._pointers) > MAX_POINTERS:
            self._pointers.popitem(last=False)


class SessionTurn:
    """One caller's turn in a session: no other run of this process is made in it while the context is open."""

    __slots__ = ("_base", "_lock", "_service", "is_saved", "session", "session_id")

    session: Session
    """The session as it was loaded, and as it was saved."""

    def __init__(self, service: SessionService, session_id: str, lock: SessionLock | None) -> None:
        self._service = service
        self._lock = lock
        self._base: Session | None = None
        self.session_id: str = session_id
        self.is_saved: bool = False

    async def __aenter__(self) -> Self:
        if self._lock is not None:
            await self._lock.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            await self._lock.__aexit__(kind, error, trace)

    async def load(self, user_id: str | None = None) -> Session:
        """The session, once in a turn; one that is not stored is new.

        Args:
            user_id: Whose a new session is. Whose a stored one is, the caller checks.

        Raises:
            SessionNotFound: The id names a record that is no session.
            StorageError: The store failed.
        """
        session = await self._service.read(self.session_id)
        if session is None:
            session = Session(self.session_id, user_id, version=NOT_STORED)
        elif is_former_pointer(session):
            raise SessionNotFound(f"there is no session {self.session_id!r}")
        if session.version is not None:  # a run changes its session's state in place
            state = copied_state(self.session_id, session.state)
            self._base = Session(self.session_id, session.user_id, session.messages, state)
        self.session = session
        return session

    def begin(self, user_id: str | None) -> None:
        """In place of `load`, for a session whose id is new: it is not stored yet.

        Args:
            user_id: Whose it is.
        """
        self.session = Session(self.session_id, user_id, version=NOT_STORED)
        self._base = Session(self.session_id, user_id)

    async def save(self, session: Session) -> None:
        """Save what was made of the session, once in a turn.

        Args:
            session: With the version that was loaded.

        Raises:
            ConfigurationError: The state cannot be kept in the store.
            SessionNotFound: Another user has begun a session of this id in the meantime.
            StorageError: The store failed.
        """
        self.session = await self._service.write(self._base, session)
        self.is_saved = True


async def enter_in_time(stack: AsyncExitStack, turn: SessionTurn, timeout: float | None) -> SessionTurn:
    """Enter a turn that is to come within `timeout` seconds.

    Raises:
        RunTimeout: It did not.
    """
    with anyio.move_on_after(timeout):
        return await stack.enter_async_context(turn)
    raise RunTimeout(f"the session's turn did not come within run_timeout={timeout:g} seconds")


def is_former_pointer(session: Session) -> bool:
    """Whether a stored record is what earlier versions kept of a chat among the sessions, and no session."""
    return (
        session.session_id.startswith("interface")
        and session.user_id is None
        and not session.messages
        and session.state.keys() == {"session_id"}
    )
