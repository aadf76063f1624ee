"""Bytes of a `text/event-stream` to the data of its events; pure, `stream.py` calls it.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_EVENT_BYTES = 16 * 2**20
"""Bytes that one event may hold: an endless line ends in an error and not in all of the memory."""

_BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event passed `MAX_EVENT_BYTES`."""


class SSEDecoder:
    """Incremental: feed it bytes cut anywhere, it yields the data of every event that is complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        """A line that has not ended yet."""
        self._data: list[bytes] = []
        self._size = 0
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
                data = b"\n".join(self._data)
                self._data.clear()
                self._size = 0
                yield data.decode("utf-8", "replace")

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
        if name == b"data":  # other fields and comments (an empty name) say nothing here
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            _check_size(self._size)


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
