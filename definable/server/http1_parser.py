"""HTTP/1.1 requests out of a client's bytes: llhttp, strict, and what it leaves to its users. Pure: no network here.

An `HTTP1Connection` feeds a `RequestParser` and answers the requests that it gives back.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from .problem import Refused

VERSIONS = frozenset({"1.0", "1.1"})

UNKNOWN_METHOD = re.compile(rb"(?:\r?\n)*[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/1\.[01]\r\n")
"""A request line that is valid but for a method that llhttp does not know."""

LINE_OVERHEAD = 4
"""Bytes of a header line beyond its name and value."""

MAX_FREE_PARSERS = 64
"""Parsers that are kept for the next requests."""


class IncomingRequest:
    """A request whose head is complete, and as much of its body as has come in.

    Attributes:
        method: In upper case.
        target: Path and query.
        version: `"1.0"` or `"1.1"`.
        headers: Names in lower case, and values, as they came.
        keep_alive: Whether the client wants to go on with the connection.
        complete: Whether all of the body has come in.
        refusal: The status that answers it, when its body turned out to be invalid.
    """

    def __init__(
        self, method: str, target: bytes, version: str, headers: list[tuple[bytes, bytes]], keep_alive: bool
    ) -> None:
        self.method: str = method
        self.target: bytes = target
        self.version: str = version
        self.headers: list[tuple[bytes, bytes]] = headers
        self.keep_alive: bool = keep_alive
        self.complete: bool = False
        self.refusal: int | None = None
        self._chunks: list[bytes] = []

    @property
    def has_body(self) -> bool:
        """Whether some of the body waits to be taken."""
        return bool(self._chunks)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a go-ahead before it sends its body (RFC 9110, section 10.1.1)."""
        return self.version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )

    @property
    def whole(self) -> bytes:
        """The body of a complete request, of which nothing has been taken."""
        chunks = self._chunks
        if len(chunks) > 1:
            chunks[:] = [b"".join(chunks)]
        return chunks[0] if chunks else b""

    def add(self, data: bytes) -> None:
        """Some of the body has come in."""
        self._chunks.append(data)

    def take(self) -> bytes:
        """The body since the last time."""
        chunks = self._chunks
        if len(chunks) == 1:
            return chunks.pop()
        self._chunks = []
        return b"".join(chunks)


class RequestParser:
    """One connection's requests.

    Nothing more is parsed after a request that ends the connection, after a `refusal` and after a `handover`.

    Args:
        max_head: Bytes of a request line and headers, and of what else stands between two pieces of a body.
    """

    def __init__(self, max_head: int) -> None:
        self._max_head = max_head
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._begun: list[IncomingRequest] = []
        self._current: IncomingRequest | None = None
        self._upgrading: IncomingRequest | None = None
        """A request whose `Upgrade` llhttp took at its word."""
        self._unproductive = 0
        """Bytes in a row that brought neither the end of a head nor some of a body."""
        self._progress = False
        self._fed = 0
        self._ended = False
        self.head_begun: bool = False
        """Whether some of a request head waits for the rest."""
        self.refusal: int | None = None
        """The status that answers what is no request of ours, after all requests before it."""
        self.handover: bytes | None = None
        """What a client has sent, from the head on with which it asks for a WebSocket."""
        self._parser: HttpRequestParser | None = None
        self._closed = False

    def feed(self, data: bytes) -> list[IncomingRequest]:
        """Takes bytes; returns the requests whose heads they complete. Bodies grow in the requests themselves."""
        begun = self._begun = []
        if self._closed or self._ended:
            self._feed_behind(data)
            return begun
        parser = self._parser
        if parser is None:
            parser = self._parser = HttpRequestParser(self)
        self._progress = False
        idle = self._current is None and not self.head_begun
        while parser is not None:
            self._fed = len(data)
            try:
                parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                data, idle = self._upgrade(data[upgrade.args[0] :]), False
                parser = self._parser
                continue
            except HttpParserError as error:
                if not self._ended:  # else it is about what follows the last request
                    self.refuse(self._status_of(error, data if idle else b""))
            else:
                self._unproductive = 0 if self._progress else self._unproductive + len(data)
                if self._unproductive > self._max_head:
                    self.refuse(431 if self._current is None else 400)
            break
        return begun

    def _feed_behind(self, data: bytes) -> None:
        """Takes what comes after the last request: frames of a WebSocket, else nothing of use."""
        if self.handover is not None:
            self.handover += data
        self.close()

    def _upgrade(self, rest: bytes) -> bytes:
        """Hands a WebSocket handshake over; every other `Upgrade` is ignored (RFC 9110, section 7.8).

        llhttp takes what follows a head with an `Upgrade` for another protocol. So a new one gets the same head without
        it, and with that the same rules hold for such a request and for all that follow it.

        Args:
            rest: What has come in behind the head.

        Returns:
            What is to be parsed next, if the connection goes on.
        """
        request = self._upgrading
        assert request is not None
        if not asks_for_websocket(request):
            self._parser = HttpRequestParser(self)
            return head_of(request, without=b"upgrade") + rest
        if has_body(request):  # RFC 6455 knows none, and its bytes would be taken for frames
            self.refuse(400)
            return b""
        self.handover = head_of(request) + rest
        self.close()
        return b""

    def forget(self) -> bool:
        """Forgets what it has parsed, if it is between two requests; False if some of a next one has come."""
        if self.head_begun or self._current or self._closed or self._ended or self._unproductive:
            return False
        self._url, self._headers, self._begun = b"", [], []
        return True

    @property
    def in_body(self) -> bool:
        """Whether the body of a request is still coming in."""
        return self._current is not None

    def refuse(self, status: int) -> None:
        """Nothing more is taken: the request that is incomplete, if there is one, is answered with this status."""
        self.refusal = status
        if self._current is not None:
            self._current.refusal = status
        self.close()

    def close(self) -> None:
        """Nothing more is parsed. Also undoes the cycle with the C parser, which only a garbage collection would."""
        self._parser = None
        self._closed = True
        self.head_begun = False

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self.head_begun = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._current is None:  # else it is a trailer, which nobody wants
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        try:
            request = self._checked_head(parser)
        except Refused as refused:
            self.refusal = refused.status
            raise
        self._progress = True
        if parser.should_upgrade():
            self._upgrading = request
            return
        if self._upgrading is not None:
            request.headers, self._upgrading = self._upgrading.headers, None
        self._current = request
        self._begun.append(request)

    def on_body(self, data: bytes) -> None:
        assert self._current is not None
        self._current.add(data)
        self._progress = True

    def on_message_complete(self) -> None:
        self.head_begun = False
        if self._current is not None:
            self._current.complete = True
            self._ended = not self._current.keep_alive
            self._current = None
        self._progress = True

    def _checked_head(self, parser: HttpRequestParser) -> IncomingRequest:
        """The request, by the rules that llhttp does not know.

        Raises:
            Refused: It breaks one of them.
        """
        headers, version, method = self._headers, parser.get_http_version(), parser.get_method()
        if self._unproductive + self._fed > self._max_head and self._head_size() > self._max_head:
            raise Refused(431)
        if version not in VERSIONS:
            raise Refused(505)
        if method == b"CONNECT":
            raise Refused(501)
        hosts, codings = 0, None
        for name, value in headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings = value if codings is None else codings + b"," + value
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise Refused(400)
        if codings is not None:
            check_codings(codings, version)
        return IncomingRequest(
            method.decode(), origin_form(method, self._url), version, headers, parser.should_keep_alive()
        )

    def _head_size(self) -> int:
        return len(self._url) + sum(len(name) + len(value) + LINE_OVERHEAD for name, value in self._headers)

    def _status_of(self, error: HttpParserError, data: bytes) -> int:
        """The status for what llhttp refuses; `data` is what it was fed, if that began with a head."""
        parser = self._parser
        assert parser is not None
        if self.refusal is not None:
            return self.refusal
        if self._url and self._current is None and parser.get_http_version() not in {"0.0", *VERSIONS}:
            return 505
        if isinstance(error, HttpParserInvalidMethodError) and UNKNOWN_METHOD.match(data):
            return 501
        return 400


def origin_form(method: bytes, target: bytes) -> bytes:
    """The path and query of a request target.

    Raises:
        Refused: It is neither a path, nor an absolute http URL, nor the `*` of `OPTIONS`.
    """
    if target.startswith(b"/"):
        return target
    if target == b"*" and method == b"OPTIONS":
        return b"/*"
    try:
        url = urlsplit(target)
    except ValueError:
        raise Refused(400) from None
    if url.scheme.lower() not in (b"http", b"https") or not url.netloc:
        raise Refused(400)
    path = url.path or b"/"
    return path + b"?" + url.query if url.query else path


def check_codings(codings: bytes, version: str) -> None:
    """A body is chunked or has a length, nothing else (RFC 9112, section 6.1).

    Raises:
        Refused: It is coded in a way that this server, or this version of HTTP, does not know.
    """
    if version == "1.0":
        raise Refused(400)
    if codings.lower() != b"chunked":
        raise Refused(501)


def head_of(request: IncomingRequest, *, without: bytes = b"") -> bytes:
    """A request's head in bytes again, for another parser, without the headers of one name."""
    lines = b"".join(b"%b: %b\r\n" % header for header in request.headers if header[0] != without)
    return b"%b %b HTTP/%b\r\n%b\r\n" % (request.method.encode(), request.target, request.version.encode(), lines)


def asks_for_websocket(request: IncomingRequest) -> bool:
    """Whether a request whose `Connection` names an `Upgrade` asks for a WebSocket (RFC 6455, section 4.1)."""
    if request.method != "GET" or request.version != "1.1":
        return False
    protocols = (value for name, value in request.headers if name == b"upgrade")
    return any(token.strip().lower() == b"websocket" for value in protocols for token in value.split(b","))


def has_body(request: IncomingRequest) -> bool:
    """Whether a request's head announces a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in request.headers
    )


class RequestParsers:
    """Parsers for all connections of a server: a kilobyte and a half each, and most connections wait for a request.

    Args:
        max_head: See `RequestParser`.
    """

    def __init__(self, max_head: int) -> None:
        self._max_head = max_head
        self._free: list[RequestParser] = []

    def take(self) -> RequestParser:
        """One that has seen nothing of the connection."""
        return self._free.pop() if self._free else RequestParser(self._max_head)

    def give_back(self, parser: RequestParser) -> bool:
        """Takes a parser between two requests; False if it has seen some of the next one, or will take none."""
        if not parser.forget():
            return False
        if len(self._free) < MAX_FREE_PARSERS:
            self._free.append(parser)
        else:
            parser.close()
        return True
