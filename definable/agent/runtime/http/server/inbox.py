"""What a client sends while the application is busy: between the protocol that parses and the `receive` of one app."""

from __future__ import annotations

from collections import deque

import anyio
import anyio.lowlevel

from .asgi import Message

CAPACITY = 65_536
"""Bytes that wait for the application before the connection stops reading."""

MESSAGE_COST = 64
"""Bytes that a message counts for beyond its payload, so that empty ones are bounded too."""

DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


class Inbox:
    """A bounded queue of ASGI messages whose end never waits: a disconnect takes effect at once on both sides.

    Hypercorn's own queue puts the disconnect behind the body: an application that answers without reading a large
    body then waits for itself.
    """

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._size = 0
        self._read = 0
        """Bytes of the WebSocket message that was read last: the application has it until it asks for another."""
        self._end: Message | None = None
        self._changed = anyio.Event()

    @property
    def ended(self) -> bool:
        """Whether the client is gone, or its request has been answered."""
        return self._end is not None

    async def put(self, message: Message) -> None:
        """Adds a message, and waits while too much is unread; without effect after a disconnect."""
        if self._end is not None:
            return
        if message["type"] in DISCONNECTS:
            self._end = message
            self._notify()
            return
        self._messages.append(message)
        self._size += _cost(message)
        self._notify()
        while self._size > CAPACITY and self._end is None:
            await self._changed.wait()

    async def get(self) -> Message:
        """The next message, in order; after the last one the disconnect, each time it is asked for.

        A WebSocket message counts as unread until the next one is asked for.
        """
        if self._read:
            self._size -= self._read
            self._read = 0
            self._notify()
        while not self._messages:
            if self._end is not None:
                await anyio.lowlevel.checkpoint()
                return self._end
            await self._changed.wait()
        message = self._messages.popleft()
        if message["type"] == "websocket.receive":
            self._read = _cost(message)
        else:
            self._size -= _cost(message)
        self._notify()
        return message

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _cost(message: Message) -> int:
    payload = message.get("body") or message.get("bytes") or message.get("text") or b""
    return len(payload) + MESSAGE_COST
