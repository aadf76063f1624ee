"""What a watching parent and its child tell each other: POSIX only, over one pair of Unix sockets.

The parent (`dev_reload.py`) leaves an `Inheritance` in the child's environment. The child (`dev_child.py`) says when it
has bound its sockets (and sends them along, for the child after it), when it serves, and what its account is; the
parent says `STOP` and `FORCE`. Either end closes when its process dies, so neither outlives the other unknowingly.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import anyio

ENVIRONMENT = "DEFINABLE_DEV_CHILD"
"""The environment variable that makes a process a child."""

STOP = b"s"
"""Finish what was accepted, and end."""

FORCE = b"f"
"""Cut off what is under way."""

MAX_SOCKETS = 16
"""Listening sockets that are handed over: one for each address of a host name."""

CHUNK = 65536
"""Bytes read at once."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a child finds in its environment: file descriptors, and what they are."""

    parent: int
    """Whose child finds it: the environment reaches that one's children too."""
    channel: int
    address: tuple[str, int] | None = None
    """The host and port that the sockets were bound for; None when there are none yet."""
    sockets: tuple[int, ...] = ()

    @classmethod
    def find(cls) -> Inheritance | None:
        """This process's inheritance; None when it is no child."""
        text = os.environ.get(ENVIRONMENT)
        if text is None:
            return None
        fields = json.loads(text)
        if fields["parent"] != os.getppid():
            return None
        address = fields["address"]
        address = None if address is None else (address[0], address[1])
        return cls(fields["parent"], fields["channel"], address, tuple(fields["sockets"]))

    def environment(self) -> dict[str, str]:
        """The environment of a child."""
        return {**os.environ, ENVIRONMENT: json.dumps(asdict(self))}


class MessageReader:
    """The messages that a child sends, at the parent's end.

    Args:
        channel: The parent's socket; non-blocking.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._text = b""
        self._sockets: list[socket.socket] = []

    async def next(self) -> Mapping[str, Any] | None:
        """The next message; None when the child's end is closed."""
        while b"\n" not in self._text:
            await anyio.wait_readable(self._channel)
            try:
                data, descriptors, _, _ = socket.recv_fds(self._channel, CHUNK, MAX_SOCKETS)
            except OSError:
                return None
            self._sockets += [socket.socket(fileno=descriptor) for descriptor in descriptors]
            if not data:
                return None
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return json.loads(line)

    def take_sockets(self) -> list[socket.socket]:
        """The sockets that came along; the caller's to close."""
        sockets, self._sockets = self._sockets, []
        return sockets

    def close(self) -> None:
        """Close what nobody took."""
        for sock in self.take_sockets():
            sock.close()


def send_message(channel: socket.socket, message: Mapping[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
    """Send a message from the child's end; a parent that is gone is no error, its end says so."""
    data = json.dumps(message).encode() + b"\n"
    try:
        if sockets:
            sent = socket.send_fds(channel, [data], [sock.fileno() for sock in sockets])
            data = data[sent:]
        channel.sendall(data)
    except OSError:
        return
