"""The chats, and the files of answers, that are held in memory: both bounded, the least recently used go first."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from .chat import Chat


class Chats:
    """The chats that are held in memory.

    Args:
        limit: How many; beyond it those go that nobody watches.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chats: OrderedDict[str, Chat] = OrderedDict()
        """The least recently used first."""

    def __iter__(self) -> Iterator[Chat]:
        return iter(tuple(self._chats.values()))

    def of(self, user_id: str) -> Chat | None:
        """A user's chat, made where there is none; None where all are in use."""
        chat = self._chats.get(user_id)
        if chat is None:
            if len(self._chats) >= self._limit and not self._drop_one():
                return None
            chat = self._chats[user_id] = Chat(user_id)
        self._chats.move_to_end(user_id)
        return chat

    def _drop_one(self) -> bool:
        idle = next((user_id for user_id, chat in self._chats.items() if chat.is_idle), None)
        if idle is None:
            return False
        del self._chats[idle]
        return True


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of an answer, for download."""

    user_id: str
    media_type: str
    filename: str
    data: bytes


class HeldFiles:
    """Files of answers, until newer ones need their place.

    Args:
        limit: Bytes of all of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[str, HeldFile] = OrderedDict()
        self._bytes = 0

    def add(self, file: HeldFile) -> str | None:
        """Hold a file; returns its id, None for one that is larger than all may be."""
        if len(file.data) > self._limit:
            return None
        id = secrets.token_urlsafe(16)
        self._files[id] = file
        self._bytes += len(file.data)
        while self._bytes > self._limit:
            self._bytes -= len(self._files.popitem(last=False)[1].data)
        return id

    def of(self, id: str, user_id: str) -> HeldFile | None:
        """A user's file; None where there is none, or none of that user."""
        file = self._files.get(id)
        return file if file is not None and file.user_id == user_id else None
