"""What must hold of the HTTP/1.1 parser whatever a client sends; a fuzzer and the test suite feed it.

- No bytes make it raise.
- Where the bytes are cut does not matter.
- Whatever it takes for a request, h11, an independent parser, takes for the same one: no room for request smuggling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import h11

from definable.server.http1_parser import IncomingRequest, RequestParser

LARGE = 1_000_000
"""Bytes of a head: a limit that no input comes to."""

SMALL = 200

SEPARATOR = b"\xf5cut"
"""Where an input is cut; no HTTP."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A request as a parser took it."""

    method: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    complete: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an input."""

    requests: tuple[Taken, ...]
    is_refused: bool
    handover: bytes | None


def outcome(pieces: list[bytes], max_head: int = LARGE) -> Outcome:
    """What the parser makes of some bytes, as they come in."""
    parser = RequestParser(max_head)
    requests: list[IncomingRequest] = []
    for piece in pieces:
        requests += parser.feed(piece)
    taken = tuple(Taken(r.method.encode(), tuple(r.headers), r.take(), r.complete) for r in requests)
    result = Outcome(taken, parser.refusal is not None, parser.handover)
    parser.close()
    return result


def is_lenience(error: str) -> bool:
    """Whether h11 refuses what does no harm.

    RFC 9112 lets a server skip ends of lines before a request (section 2.2) and split a request line at any run of
    spaces (section 3); llhttp takes a lone CR for the end of a line there.
    """
    line = re.match(r"illegal request line: bytearray\(b[\"'](.*)", error)
    return error == "no request line received" or (line is not None and re.match(r"(\\r)+|.*  ", line[1]) is not None)


def reference(data: bytes, count: int) -> list[Taken]:
    """The first `count` complete requests, by h11; fewer where it does not go on and may.

    Raises:
        h11.RemoteProtocolError: It refuses one of them.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGE)
    connection.receive_data(data)
    taken: list[Taken] = []
    while len(taken) < count:
        try:
            request, body = connection.next_event(), b""
        except h11.RemoteProtocolError as error:
            if not is_lenience(str(error)):
                raise
            break
        assert isinstance(request, h11.Request), request
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            body += bytes(event.data)
        taken.append(Taken(request.method, tuple(request.headers), body, True))
        if len(taken) < count:
            connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:  # it keeps no HTTP/1.0 connection
                break
            connection.start_next_cycle()
    return taken


def check(data: bytes) -> None:
    """Assert what must hold."""
    pieces = [piece for piece in data.split(SEPARATOR) if piece]
    data = b"".join(pieces)
    if not data:
        return
    outcome(pieces, SMALL)
    whole = outcome([data])
    assert outcome(pieces) == whole, "where it is cut matters"
    if len(data) < 300:
        assert outcome([bytes([byte]) for byte in data]) == whole, "byte by byte it is another"
    complete = [request for request in whole.requests if request.complete]
    if complete and whole.handover is None:
        expected = reference(data, len(complete))
        assert [*map(comparable, expected)] == [*map(comparable, complete[: len(expected)])]


def comparable(request: Taken) -> Taken:
    """Less what the two write in ways of their own: padding, and the headers that the body has shown the meaning of."""
    framing = (b"content-length", b"transfer-encoding")
    headers = tuple((name, value.strip(b" \t")) for name, value in request.headers if name not in framing)
    return Taken(request.method, headers, request.body, True)
