"""Conversations between interface and agent: found again after a restart, seen as the agent's store has them."""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Container
from dataclasses import replace
from typing import Any

from definable.agent.run_output import RunOutput
from definable.agent.session.base import Session, SessionStore
from definable.agent.session.history import bounded

from .session import InterfaceSession

MAX_KNOWN = 100_000
"""Chats of which it is remembered which conversation began here last."""


class Conversations:
    """Keeps an interface's sessions and the agent's in step.

    Args:
        store: The agent's; None: an interface sees what it answered itself.
        max_messages: How many messages of a conversation are kept.
        ttl: Seconds of silence after which a conversation begins anew.
        name: What tells the interface from others that have its chats; None where no other has.
    """

    def __init__(self, store: SessionStore | None, max_messages: int, ttl: float, name: str | None = None) -> None:
        self._store = store
        self._max_messages = max_messages
        self._ttl = ttl
        self._prefix = "interface" if name is None else f"interface {name}"
        self._known: OrderedDict[str, str] = OrderedDict()
        """The session of a chat that began here last."""
        self._states: OrderedDict[str, dict[str, Any]] = OrderedDict()
        """The states as they are stored, by session id: what differs was changed by a hook."""

    async def begin(self, session: InterfaceSession, user_id: str, *, former_user_id: str | None = None) -> None:
        """Make a session the user's: the conversation of before a restart when it is young enough, else a new one.

        Args:
            session: The open conversation.
            user_id: Whose it is.
            former_user_id: A former name of the same user: a stored conversation of this chat that it owns becomes the
                user's.
        """
        if self._store is not None:
            await self._find(self._store, session, user_id, former_user_id)
        session.user_id = user_id  # at last: where the store failed, the next message tries again

    async def go_on(self, session: InterfaceSession) -> None:
        """Show a session what was said elsewhere, and keep what leads to it after a restart as long as the session: a
        store may forget what is unused.
        """
        if self._store is None:
            return
        if await self._store.load(self._name_of(session)) is None:
            await self._save_name(self._store, session)
        if session.session_state == self._states.get(session.session_id, {}):  # else a hook has changed it since
            nothing = Session(session.session_id, session.user_id)
            self._show(session, await self._store.load(session.session_id) or nothing)

    async def _find(
        self, store: SessionStore, session: InterfaceSession, user_id: str, former_user_id: str | None
    ) -> None:
        name = self._name_of(session)
        former = await self._former(store, name, {user_id, former_user_id})
        if former is not None and former.user_id != user_id:
            former = replace(former, user_id=user_id)
            await store.save(former)
        if former is not None and former.session_id != self._known.get(name):  # else it has ended here
            session.session_id = former.session_id
            self._show(session, former)
        else:
            await self._save_name(store, session)
        _remember(self._known, name, session.session_id)

    async def keep_state(self, session: InterfaceSession) -> None:
        """Store a `session_state` that a hook has changed, for the next run to see."""
        stored_state = self._states.get(session.session_id, {})
        if self._store is None or session.session_state == stored_state:
            return
        now = time.time()
        stored = await self._store.load(session.session_id) or Session(
            session.session_id, session.user_id, created_at=now, updated_at=now
        )
        await self._store.save(replace(stored, state=session.session_state))
        _remember(self._states, session.session_id, copy.deepcopy(session.session_state))

    async def after_run(self, session: InterfaceSession, output: RunOutput) -> None:
        """Show a session what a run has left behind, and bound what is kept."""
        session.last_run_output = output
        stored = None if self._store is None else await self._store.load(session.session_id)
        if self._store is None or stored is None:
            session.messages = bounded(session.messages + output.messages, self._max_messages)
            return
        messages = bounded(stored.messages, self._max_messages)
        if len(messages) < len(stored.messages):
            stored = replace(stored, messages=messages)
            await self._store.save(stored)
        self._show(session, stored)

    async def _former(self, store: SessionStore, name: str, owners: Container[str | None]) -> Session | None:
        pointer = await store.load(name)
        former = None if pointer is None else await store.load(str(pointer.state.get("session_id")))
        if former is None or former.user_id is None or former.user_id not in owners:
            return None
        if time.time() - former.updated_at > self._ttl:
            return None
        return former

    async def _save_name(self, store: SessionStore, session: InterfaceSession) -> None:
        now = time.time()
        await store.save(Session(self._name_of(session), None, (), {"session_id": session.session_id}, now, now))

    def _name_of(self, session: InterfaceSession) -> str:
        return f"{self._prefix}:{session.platform}:{session.platform_chat_id}:{session.platform_user_id}"

    def _show(self, session: InterfaceSession, stored: Session) -> None:
        session.messages, session.session_state = stored.messages, stored.state
        _remember(self._states, stored.session_id, copy.deepcopy(stored.state))


def _remember(table: OrderedDict[str, Any], name: str, value: Any) -> None:
    table[name] = value
    table.move_to_end(name)
    if len(table) > MAX_KNOWN:
        table.popitem(last=False)
