"""HTTP/2 frames before they are parsed: how large one may be, how many may come at once, how many may bring nothing.

Pure. An `H2` passes a client's bytes through its `FrameMeter`. h2 itself waits for a frame as long as its length says,
16 MiB of it, and takes any number of frames that cost a client nothing (CVE-2019-9511 to 9518; RFC 9113, section
10.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from h2.errors import ErrorCodes

PREFACE_SIZE = 24
"""Bytes with which a client begins a connection."""

HEAD_SIZE = 9
"""Bytes before each frame's payload."""

BATCH = 32
"""Frames that are handled before other connections get their turn: about a millisecond's work."""

HEADERS_WEIGHT = 8
"""Frames that a request counts for in a `BATCH`."""

ALLOWANCE = 1000
"""Frames that bring nothing (settings, pings, priorities, window updates, resets, empty data) and may come at once.
nghttp2 allows a burst of 1,000 resets (`nghttp2_option_set_stream_reset_rate_limit`)."""

REFILL = 50.0
"""Such frames that may come in a second, on and on."""

REQUEST_CREDIT = 3
"""Such frames that a request may bring along: priorities and window updates of its own."""

DATA_CREDIT = 4
"""Such frames that each frame of ours with data may be answered with. Envoy allows ten window updates."""

RESET_COST = REQUEST_CREDIT + 1
"""Of a request that is reset at once nothing remains to allow for another."""

DATA, HEADERS, RST_STREAM = 0x0, 0x1, 0x3
END_STREAM, PADDED = 0x1, 0x8


class FrameRefused(Exception):
    """A client's frames end its connection.

    Args:
        code: What the client is told.
        why: The same in words, for a log.
    """

    def __init__(self, code: ErrorCodes, why: str) -> None:
        super().__init__(why)
        self.code = code


class FrameMeter:
    """Reads the heads of one connection's incoming frames.

    Args:
        clock: The time, in seconds.
        max_frame_size: Bytes of a frame's payload (`SETTINGS_MAX_FRAME_SIZE`).
    """

    def __init__(self, clock: Callable[[], float], max_frame_size: int) -> None:
        self._clock = clock
        self._max_frame_size = max_frame_size
        self._skip = PREFACE_SIZE
        """Bytes until the next frame begins."""
        self._head = bytearray()
        """A frame's head of which not all has come."""
        self._weight = 0
        """Frames since others got their turn."""
        self._allowance = float(ALLOWANCE)
        self._counted_at = clock()

    def pieces(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The bytes in pieces; with each, whether others are to get their turn after it.

        Raises:
            FrameRefused: A frame is larger than ours may be, or too many have brought nothing.
        """
        start = position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            if self._weight >= BATCH:
                self._weight = 0
                yield data[start:position], True
                start = position
            head = data[position : position + HEAD_SIZE - len(self._head)]
            self._head += head
            position += len(head)
            if len(self._head) == HEAD_SIZE:
                self._meter(self._head)
                self._head.clear()
        yield data[start:], False

    def sent_data(self) -> None:
        """A frame of ours with data has gone out: its receiver may open its windows again."""
        self._allowance = min(ALLOWANCE, self._allowance + DATA_CREDIT)

    def _meter(self, head: bytearray) -> None:
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if size > self._max_frame_size:
            raise FrameRefused(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of {size:,} bytes")
        self._skip = size
        self._weight += HEADERS_WEIGHT if kind == HEADERS else 1
        if kind == HEADERS:
            self._allowance = min(ALLOWANCE, self._allowance + REQUEST_CREDIT)
        elif kind != DATA:
            self._charge(RESET_COST if kind == RST_STREAM else 1)
        elif not flags & END_STREAM and (size == 0 or (flags & PADDED and size <= 256)):  # nothing but padding fits
            self._charge(1)

    def _charge(self, cost: int) -> None:
        now = self._clock()
        refilled = self._allowance + (now - self._counted_at) * REFILL
        self._counted_at = now
        self._allowance = min(ALLOWANCE, refilled) - cost
        if self._allowance < 0:
            raise FrameRefused(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that bring no request and no data")
