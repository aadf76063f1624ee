"""Bytes in, requests out: what the parser of HTTP/1.1 takes and what it refuses. No network here."""

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from definable.server.http1_parser import RequestParser, head_of

LIMIT = 65_536

HOST = b"Host: t\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def parsed(*pieces, limit=LIMIT):
    """The requests in some bytes, and what their parser makes of the rest."""
    parser = RequestParser(limit)
    requests = [request for piece in pieces for request in parser.feed(piece)]
    return [
        (r.method, r.target, r.version, r.headers, r.keep_alive, r.take(), r.complete, r.refusal) for r in requests
    ], parser


def refusal(data):
    _, parser = parsed(data)
    return parser.refusal


def bodies(data):
    requests, parser = parsed(data)
    assert parser.refusal is None
    return [request[5] for request in requests]


def with_header(line):
    return b"POST / HTTP/1.1\r\n" + HOST + line + b"\r\n\r\nhello"


def test_a_request_is_its_method_target_headers_and_body():
    ((method, target, version, headers, keep_alive, body, complete, _),), parser = parsed(
        b"POST /a%20b?c=d HTTP/1.1\r\nHost: t\r\nX-Name: \t a b \t\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert (method, target, version, body) == ("POST", b"/a%20b?c=d", "1.1", b"hello")
    assert headers == [(b"host", b"t"), (b"x-name", b"a b"), (b"content-length", b"5")]
    assert keep_alive and complete and not parser.head_begun


def test_a_chunked_body_is_its_data_without_extensions_and_trailers():
    data = CHUNKED + b'3;a=b;c="d e"\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Trailer: y\r\n\r\n'
    assert bodies(data + data) == [b"abc0123456789"] * 2
    ((*_, headers, _, _, _, _), _), _ = parsed(data + data)
    assert (b"x-trailer", b"y") not in headers


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_the_client_says_whether_the_connection_goes_on(head, keep_alive):
    ((_, _, _, _, wanted, *_),), _ = parsed(head)
    assert wanted is keep_alive


def test_nothing_is_heard_after_the_last_request():
    last = b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    for pieces in ([last + b"GET /more HTTP/1.1\r\n" + HOST + b"\r\n"], [last, b"\x00garbage", b"more"]):
        requests, parser = parsed(*pieces)
        assert [request[1] for request in requests] == [b"/last"]
        assert parser.refusal is None


SMUGGLED = {
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6",
    "one length twice": b"Content-Length: 5\r\nContent-Length: 5",
    "a list of lengths": b"Content-Length: 5, 5",
    "two numbers": b"Content-Length: 5 5",
    "no number": b"Content-Length: ",
    "a sign": b"Content-Length: +5",
    "negative": b"Content-Length: -5",
    "hexadecimal": b"Content-Length: 0x5",
    "a huge number": b"Content-Length: " + b"9" * 30,
    "a space before the colon": b"Content-Length : 5",
    "a space in a name": b"X y: 5",
    "no name": b": 5",
    "no colon": b"Content-Length",
    "a folded line": b"X: a\r\n b",
    "a folded first line": b" X: a",
    "a line feed in a value": b"X: a\nTransfer-Encoding: chunked",
    "a carriage return in a value": b"X: a\rTransfer-Encoding: chunked",
    "a line feed at the end": b"X: a\n",
    "a zero byte": b"X: \x00",
    "a control character": b"X: a\x0bb",
    "a name that is no token": b"\xff: a",
    "a vertical tab before a coding": b"Transfer-Encoding:\x0bchunked",
    "chunked not last": b"Transfer-Encoding: chunked, gzip",
    "chunked and another": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "a second host": b"Host: u",
}


@pytest.mark.parametrize("line", SMUGGLED.values(), ids=SMUGGLED)
def test_what_two_readers_could_read_differently_is_refused(line):
    assert refusal(with_header(line)) == 400


@pytest.mark.parametrize("coding", [b"gzip", b"xchunked", b"gzip, chunked", b"identity"])
def test_an_unknown_transfer_coding_is_refused(coding):
    assert refusal(with_header(b"Transfer-Encoding: " + coding)) == 501


def test_codings_in_two_lines_are_one_list():
    assert refusal(with_header(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked")) == 501


CHUNKS = {
    "a size beyond all bounds": b"f" * 17 + b"\r\nabc",
    "a sign": b"-3\r\nabc",
    "a prefix": b"0x3\r\nabc",
    "a space behind the size": b"3 \r\nabc",
    "a line feed alone": b"3\nabc\n0\n\n",
    "a line feed in an extension": b"2;\nxx\r\n0\r\n\r\n",
    "a carriage return in an extension": b"2;a\rb\r\nxx\r\n0\r\n\r\n",
    "no line end behind the data": b"3\r\nabcX0\r\n\r\n",
    "a length in the trailer": b"0\r\nContent-Length: 5\r\n\r\n",
    "a space before the colon in the trailer": b"0\r\nX : 5\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_a_broken_chunk_ends_its_request(chunks):
    requests, parser = parsed(CHUNKED + chunks)
    assert parser.refusal == 400
    assert [(request[6], request[7]) for request in requests] == [(False, 400)]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/3.7", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET /", 505),
        (b"BREW / HTTP/1.1", 501),
        (b"CONNECT evil:443 HTTP/1.1", 501),
        (b"get / HTTP/1.1", 501),
        (b"GET", 400),
        (b"G\x00T / HTTP/1.1", 400),
        (b"GET evil HTTP/1.1", 400),
        (b"GET ?a=b HTTP/1.1", 400),
        (b"GET /\xff HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET ftp://evil/ HTTP/1.1", 400),
        (b"GET http://[::1/ HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
    ],
)
def test_a_request_line_that_is_none_is_refused(line, status):
    assert refusal(line + b"\r\n" + HOST + b"\r\n") == status


def test_a_host_is_needed_from_1_1_on():
    assert refusal(b"GET / HTTP/1.1\r\n\r\n") == 400
    assert refusal(b"GET / HTTP/1.0\r\n\r\n") is None


@pytest.mark.parametrize(
    ("target", "meant"),
    [(b"http://t/x?y", b"/x?y"), (b"HTTPS://t", b"/"), (b"/x#y", b"/x#y"), (b"//x", b"//x")],
)
def test_a_target_is_a_path(target, meant):
    ((_, path, *_),), _ = parsed(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert path == meant


@pytest.mark.parametrize("size", [1, 100, 8_192])
def test_a_head_without_end_is_refused_in_whatever_pieces_it_comes(size):
    for endless in (b"GET /" + b"a" * 10_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000, b"\r\n" * 5_000):
        _, parser = parsed(*(endless[start : start + size] for start in range(0, len(endless), size)), limit=1_000)
        assert parser.refusal == 431


def test_a_head_that_is_too_large_is_refused_also_in_one_piece():
    assert parsed(b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 1_000 + b"\r\n\r\n", limit=1_000)[1].refusal == 431
    small = b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 900 + b"\r\n\r\n"
    assert parsed(small * 10, limit=1_000)[1].refusal is None


@pytest.mark.parametrize("begun", [b"5;", b"0\r\nX: "], ids=["chunk extension", "trailer"])
def test_what_stands_between_two_pieces_of_a_body_is_bounded(begun):
    _, parser = parsed(CHUNKED + begun, *[b"a" * 1_000] * 100, limit=10_000)
    assert parser.refusal == 400


BETWEEN = {
    "in a body": (CHUNKED, b"1;", 400),
    "before the first head": (b"", b"GET /", 431),
    "before another head": (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /", 431),
    "behind some of a body": (CHUNKED + b"1\r\nx\r\n", b"1;", 400),
}


@pytest.mark.parametrize(("begun", "goes_on", "status"), BETWEEN.values(), ids=BETWEEN)
def test_what_is_neither_a_head_nor_a_body_yet_may_have_just_so_many_bytes(begun, goes_on, status):
    _, parser = parsed(begun, goes_on, b"x" * (1_000 - len(goes_on)), limit=1_000)
    assert parser.refusal is None
    parser.feed(b"x")
    assert parser.refusal == status


WEBSOCKET = b"GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


def test_a_websocket_handshake_is_handed_over_with_all_that_came():
    head = WEBSOCKET + b"Content-Length: 0\r\n\r\n"
    requests, parser = parsed(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" + head[:40], head[40:] + b"ab", b"c", b"more")
    assert [request[1] for request in requests] == [b"/"]
    assert parser.handover.lower() == head.lower() + b"abcmore"


@pytest.mark.parametrize("framing", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_a_websocket_handshake_with_a_body_is_refused(framing):
    requests, parser = parsed(WEBSOCKET + framing + b"\r\n\r\nabc")
    assert (requests, parser.refusal, parser.handover) == ([], 400, None)


UPGRADES = {
    "cleartext HTTP/2": b"POST / HTTP/1.1\r\nHost: t\r\nUpgrade: h2c\r\n",
    "a WebSocket by POST": b"POST / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\n",
    "a WebSocket by HTTP/1.0": b"GET / HTTP/1.0\r\nHost: t\r\nUpgrade: websocket\r\n",
    "several": b"POST / HTTP/1.1\r\nHost: t\r\nUpgrade: foo/1\r\nUpgrade: bar\r\n",
}


@pytest.mark.parametrize("head", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_every_other_upgrade_is_ignored_and_the_body_read(head, size):
    stream = head + b"Connection: keep-alive, Upgrade\r\nContent-Length: 3\r\n\r\nabc"
    stream += b"GET /next HTTP/1.1\r\nHost: t\r\n\r\n"
    requests, parser = parsed(*(stream[at : at + size] for at in range(0, len(stream), size)))
    assert [(request[1], request[5], request[6]) for request in requests] == [
        (b"/", b"abc", True),
        (b"/next", b"", True),
    ]
    assert (parser.refusal, parser.handover) == (None, None)
    assert (b"connection", b"keep-alive, Upgrade") in requests[0][3]


def test_a_thousand_ignored_upgrades_in_one_piece_are_a_thousand_requests():
    requests, parser = parsed(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 1000)
    assert len(requests) == 1000
    assert parser.refusal is None


def test_an_expectation_is_told():
    def expects(version, value):
        (request,) = RequestParser(LIMIT).feed(
            b"POST / HTTP/%b\r\nHost: t\r\nContent-Length: 1\r\nExpect: %b\r\n\r\n" % (version, value)
        )
        return request.expects_continue

    assert expects(b"1.1", b"100-continue") and expects(b"1.1", b"100-Continue")
    assert not expects(b"1.1", b"something") and not expects(b"1.0", b"100-continue")


TOKENS = st.text("abcXYZ09-_.!", min_size=1, max_size=8).map(str.encode)
VALUES = st.text('abc XYZ\t09,;="\xe4\xff', max_size=20).map(lambda text: text.encode("latin-1").strip())
RESERVED = {b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"}
HEADERS = st.lists(st.tuples(TOKENS, VALUES).filter(lambda item: item[0].lower() not in RESERVED), max_size=5)
TARGETS = st.text("abc/?&=%20.~", max_size=20).map(lambda text: b"/" + text.encode())


@st.composite
def valid_requests(draw):
    """The bytes of a request that nobody may refuse."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"HEAD"]))
    lines = [method + b" " + draw(TARGETS) + b" HTTP/1.1", b"Host: t"]
    lines += [name + b":" + draw(st.sampled_from([b"", b" ", b"\t "])) + value for name, value in draw(HEADERS)]
    body = b""
    match draw(st.sampled_from(["none", "length", "chunks"])):
        case "length":
            body = draw(st.binary(max_size=50))
            lines.append(b"Content-Length: %d" % len(body))
        case "chunks":
            chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
            extension = draw(st.sampled_from([b"", b";a=b"]))
            body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + b"0\r\n\r\n"
            lines.append(b"Transfer-Encoding: chunked")
        case _:
            pass
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@st.composite
def split(draw, data):
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def by_h11(data):
    connection, requests = h11.Connection(h11.SERVER), []
    connection.receive_data(data)
    while (event := connection.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
        match event:
            case h11.Request():
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                requests.append([event.method.decode(), bytes(event.target), headers, b""])
            case h11.Data():
                requests[-1][3] += bytes(event.data)
            case h11.EndOfMessage():
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
            case _:
                raise AssertionError(event)
    return requests


@given(requests=st.lists(valid_requests(), min_size=1, max_size=4), data=st.data())
@settings(deadline=None)
def test_valid_requests_are_what_h11_says_they_are_in_whatever_pieces_they_come(requests, data):
    stream = b"".join(requests)
    ours, parser = parsed(*data.draw(split(stream)))
    assert parser.refusal is None
    assert all(complete and keep_alive for _, _, _, _, keep_alive, _, complete, _ in ours)
    assert [[method, target, headers, body] for method, target, _, headers, _, body, _, _ in ours] == by_h11(stream)


@given(noise=st.binary(max_size=30), request=valid_requests(), at=st.integers(0, 200), data=st.data())
@example(noise=b"\r\n", request=b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", at=0, data=None)
@settings(deadline=None)
def test_any_bytes_come_to_the_same_in_whatever_pieces_they_come(noise, request, at, data):
    at = min(at, len(request))
    stream = request[:at] + noise + request[at:] + request
    pieces = [stream[i : i + 1] for i in range(len(stream))] if data is None else data.draw(split(stream))
    whole, one = parsed(stream)
    torn, many = parsed(*pieces)
    assert torn == whole
    assert (one.refusal is None) == (many.refusal is None)
    assert (one.handover, one.head_begun) == (many.handover, many.head_begun)


@given(request=valid_requests())
@settings(deadline=None)
def test_a_head_in_bytes_again_is_the_same_head(request):
    (first,) = RequestParser(LIMIT).feed(request)
    (second,) = RequestParser(LIMIT).feed(head_of(first))
    assert (first.method, first.target, first.headers) == (second.method, second.target, second.headers)
