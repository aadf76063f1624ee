"""WebSocket messages while they arrive and wait: each has a limit, and all connections of a server share another.

A `WebSocketStream` assembles its messages here. One `MessageMemory` belongs to an `HTTPServer`.
"""

from __future__ import annotations

from sys import getsizeof

from wsproto.events import BytesMessage, TextMessage

from .asgi import Message

SMALL_MESSAGE = 65_536
"""Bytes that a connection may always hold: clients that fill the shared memory do not close those that just chat."""


class MessageMemory:
    """What the unfinished and unread messages of all WebSocket connections may take together.

    Args:
        limit: Bytes beyond `SMALL_MESSAGE` of each connection.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held: int = 0
        """Bytes that are in use."""

    def resize(self, held: int, size: int) -> bool:
        """Takes `size` bytes in place of `held`; False, and nothing changed, if there is no capacity for them."""
        grown = self.held + size - held
        if grown > self._limit and size > held:
            return False
        self.held = grown
        return True


class MessageTooLarge(Exception):
    """A message is larger than one may be."""


class MemoryExhausted(Exception):
    """Other connections hold all that messages may take."""


class MessageBuffer:
    """The message in progress of one connection.

    Args:
        limit: Bytes of one message; a text counts as UTF-8.
        memory: Shared with the other connections.
    """

    def __init__(self, limit: int, memory: MessageMemory) -> None:
        self._limit = limit
        self._memory = memory
        self._pieces = bytearray()
        self._held = 0

    def add(self, event: TextMessage | BytesMessage) -> Message | None:
        """Adds what has come of a message; returns it once it is whole.

        Raises:
            MessageTooLarge: It has more bytes than a message may have.
            MemoryExhausted: There is no memory left for it.
        """
        data = event.data if isinstance(event, TextMessage) else bytes(event.data)
        piece = data.encode() if isinstance(data, str) else data
        size = len(self._pieces) + len(piece)
        if size > self._limit:
            raise MessageTooLarge
        if not event.message_finished:
            self._hold(size)
            self._pieces += piece
            return None
        if self._pieces:
            piece, self._pieces = bytes(self._pieces + piece), bytearray()
            data = piece.decode() if isinstance(data, str) else piece
        self._hold(getsizeof(data))  # one emoji makes each letter of a text take four bytes
        if isinstance(data, str):
            return {"type": "websocket.receive", "bytes": None, "text": data}
        return {"type": "websocket.receive", "bytes": data, "text": None}

    def release(self) -> None:
        """The message was read, or nobody will read it."""
        self._hold(0)
        self._pieces = bytearray()

    def _hold(self, size: int) -> None:
        counted = max(0, size - SMALL_MESSAGE)
        if not self._memory.resize(self._held, counted):
            raise MemoryExhausted
        self._held = counted
