"""HTTP/1.1 responses as bytes: which framing a response gets, and that it keeps to it. Pure: no network here.

An `HTTP1RequestCycle` makes a `ResponseWriter` for each response of an application.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import cache, lru_cache
from typing import Literal, TypeAlias

from .problem import Problem, phrase

BODYLESS = frozenset({204, 304})
"""Statuses whose response has no body, whatever its headers say (RFC 9112, section 6.3)."""

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.1."""

NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""RFC 9110, section 5.5: above all the line break, with which a value becomes headers or a whole response."""

HOP_BY_HOP = frozenset({b"transfer-encoding", b"keep-alive", b"upgrade"})
"""Headers that say how the message travels: the server's to say (ASGI, "Response Start")."""

MAX_LENGTH_DIGITS = 18

MAX_KNOWN = 64
"""Bytes that the value of a header may have whose line is kept for the next response."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ResponseError(Exception):
    """The application's response cannot be sent as it is."""


Framing: TypeAlias = Literal["none", "length", "chunks", "close"]
"""How a client finds the end of a response's body: there is no body, by `Content-Length`, by the last chunk, or by the
end of the connection (HTTP/1.0 knows no other, when the length is not known)."""


class ResponseWriter:
    """One response.

    Args:
        status: Its status, a final one.
        headers: The application's. What says how the message travels is the server's to say, except for the length,
            and for `connection: close`.
        method: The request's.
        version: The request's.
        keep_alive: Whether the client wants to go on with the connection.

    Raises:
        ResponseError: The status or a header cannot be sent.
    """

    def __init__(
        self,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        method: str,
        version: str,
        keep_alive: bool,
    ) -> None:
        self._version = version
        self._framing: Framing | None = "none" if method == "HEAD" or status in BODYLESS else None
        self._remaining: int | None = None
        self.closes: bool = not keep_alive
        """Whether the connection ends with this response."""
        lines = [status_line(status)]
        for name, value in headers:
            lower = header_name(name)
            if lower == b"content-length":
                if status != 204:
                    self._remaining = content_length(value, self._remaining)
                    lines += (b"content-length: ", value, b"\r\n")
            elif lower == b"connection":
                self.closes = self.closes or b"close" in value.lower()
            elif lower not in HOP_BY_HOP:
                lines.append(header_line(lower, value) if len(value) < MAX_KNOWN else new_header_line(lower, value))
        self._lines = lines

    def first(self, body: bytes, *, more: bool, must_close: bool = False) -> bytes:
        """The head and the first of the body.

        Args:
            body: Some of the body, or all of it.
            more: Whether more of it follows.
            must_close: Whether the connection ends with this response.

        Raises:
            ResponseError: The body is not as long as announced.
        """
        lines = self._lines
        if self._framing is None:
            if self._remaining is not None:
                self._framing = "length"
            elif not more:
                self._framing, self._remaining = "length", len(body)
                lines.append(b"content-length: %d\r\n" % len(body))
            elif self._version == "1.1":
                self._framing = "chunks"
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self._framing = "close"
                must_close = True
        data = self.next(body, more=more)
        if must_close:
            self.closes = True
        lines.append(date_line())
        if self.closes:
            lines.append(b"connection: close\r\n")
        elif self._version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines += (b"\r\n", data)
        return b"".join(lines)

    def next(self, body: bytes, *, more: bool) -> bytes:
        """More of the body, as it is sent.

        Raises:
            ResponseError: The body is not as long as announced.
        """
        match self._framing:
            case "length":
                self._count(len(body), more)
                data = body
            case "none":
                data = b""
            case "chunks":
                data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
                if not more:
                    data += b"0\r\n\r\n"
            case _:
                data = body
        return data

    def _count(self, size: int, more: bool) -> None:
        assert self._remaining is not None
        left = self._remaining = self._remaining - size
        if left < 0:
            raise ResponseError("the body of the response is longer than its content-length")
        if left and not more:
            raise ResponseError(f"the body of the response lacks {left} bytes of its content-length")


def content_length(value: bytes, before: int | None) -> int:
    """The length that a header announces, where none has been announced before.

    Raises:
        ResponseError: It is none, or one too many.
    """
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS or before is not None:
        raise ResponseError(f"content-length: {value!r} is no length, or one too many")
    return int(value)


def whole_response(problem: Problem, method: str = "") -> bytes:
    """A problem as the last response of a connection; `method` is the request's, where it is known."""
    writer = ResponseWriter(problem.status, problem.response_headers(), method, "1.1", keep_alive=False)
    return writer.first(problem.body(), more=False)


def date_line() -> bytes:
    """The `Date` header (RFC 9110, section 6.6.1), made once a second."""
    return _line_of(int(time.time()))


@lru_cache(maxsize=1)
def _line_of(second: int) -> bytes:
    return b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"


@cache
def status_line(status: int) -> bytes:
    """The first line of a response.

    Raises:
        ResponseError: It is no final status.
    """
    if not 200 <= status <= 999:
        raise ResponseError(f"{status!r} is no final HTTP status")
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase(status).encode())


def new_header_line(name: bytes, value: bytes) -> bytes:
    """A header's line.

    Raises:
        ResponseError: The value cannot be sent.
    """
    if NOT_IN_VALUE.search(value):
        raise ResponseError(f"the header {name!r} cannot have the value {value!r}")
    return b"%b: %b\r\n" % (name, value)


header_line: Callable[[bytes, bytes], bytes] = lru_cache(maxsize=256)(new_header_line)
"""A header's line: most are the same in all responses."""


@lru_cache(maxsize=1024)
def header_name(name: bytes) -> bytes:
    """A header's name, in lower case.

    Raises:
        ResponseError: It is none.
    """
    if not NAME.fullmatch(name):
        raise ResponseError(f"{name!r} is no name of a header")
    return name.lower()
