"""Bytes of a streamed answer to the data of its server-sent events. Pure; `reply_stream.py` feeds it.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. Beyond it: an event
whose name is `error` is told apart, so is the field `error` of llama.cpp, a bare JSON line counts as data, and what is
left at the end of the stream counts when it is whole, since servers forget the last blank line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

MAX_EVENT_BYTES = 16 * 2**20
"""Bytes that one event may hold: an endless line ends in an error and not in all of the memory."""

DONE = "[DONE]"

_BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event passed `MAX_EVENT_BYTES`."""


class ErrorEvent(str):
    """The data of an event by which the server says that it failed."""

    __slots__ = ()


class SSEDecoder:
    """Incremental: feed it bytes cut anywhere, it yields the data of every event that is complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        """A line that has not ended yet."""
        self._data: list[bytes] = []
        self._size = 0
        self._is_error = False
        self._started = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take more of the stream; yield the data of each event that ends in it.

        Raises:
            EventTooLong: An event is longer than any real one.
        """
        for line in self._lines(chunk) if chunk else ():
            if line:
                self._take_field(line)
            elif self._data:
                yield self._event()
            else:
                self._is_error = False

    def end(self) -> str | None:
        """The event that the stream's end left without its blank line; None where it is not whole."""
        if self._rest:
            self._take_field(self._without_bom(bytes(self._rest)))
            self._rest.clear()
        if not self._data:
            return None
        data = self._event()
        return data if isinstance(data, ErrorEvent) or _is_whole(data) else None

    def _event(self) -> str:
        data = b"\n".join(self._data).decode("utf-8", "replace")
        is_error, self._is_error = self._is_error, False
        self._data.clear()
        self._size = 0
        return ErrorEvent(data) if is_error else data

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk.startswith(b"\n"):  # a CRLF that was cut in two
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        for line in chunk.splitlines(keepends=True):
            if not line.endswith((b"\n", b"\r")):
                self._rest += line
                return _check_size(len(self._rest))
            if self._rest:
                line = bytes(self._rest + line)
                self._rest.clear()
            yield self._without_bom(line.rstrip(b"\r\n"))

    def _without_bom(self, line: bytes) -> bytes:
        if self._started:
            return line
        self._started = True
        return line.removeprefix(_BOM)

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._is_error = value.strip() == b"error"
        elif name in (b"data", b"error") or line.startswith(b"{"):  # others, and comments, say nothing here
            # llama.cpp before https://github.com/ggml-org/llama.cpp/pull/16109 wrote "error: {...}"
            self._is_error = self._is_error or name == b"error"
            self._data.append(line if line.startswith(b"{") else value.removeprefix(b" "))
            self._size += len(line)
            _check_size(self._size)


def _is_whole(data: str) -> bool:
    if data.strip() == DONE:
        return True
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
