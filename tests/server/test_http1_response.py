"""Responses as bytes: their framing, and what cannot be sent. No network here."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from definable.server.http1_response import ResponseError, ResponseWriter, header_line, header_name


def writer(status=200, headers=(), *, method="GET", version="1.1", keep_alive=True):
    return ResponseWriter(status, headers, method=method, version=version, keep_alive=keep_alive)


def head_and_body(data):
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return first, dict(line.split(b": ", 1) for line in lines), body


def test_a_response_of_one_piece_has_its_length():
    first, headers, body = head_and_body(writer(headers=[(b"X-A", b"b")]).first(b"hello", more=False))
    assert first == b"HTTP/1.1 200 OK"
    assert (headers[b"x-a"], headers[b"content-length"], body) == (b"b", b"5", b"hello")
    assert b"date" in headers and b"connection" not in headers


def test_a_response_of_unknown_length_is_chunked():
    response = writer()
    _, headers, body = head_and_body(response.first(b"hello", more=True))
    body += response.next(b"", more=True) + response.next(b"x" * 17, more=True) + response.next(b"", more=False)
    assert headers[b"transfer-encoding"] == b"chunked"
    assert body == b"5\r\nhello\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
    assert not response.closes


def test_http_1_0_knows_no_chunks():
    response = writer(version="1.0")
    _, headers, body = head_and_body(response.first(b"hello", more=True))
    assert (body, headers[b"connection"]) == (b"hello", b"close")
    assert b"transfer-encoding" not in headers and response.closes


def test_http_1_0_is_told_that_the_connection_goes_on():
    _, headers, _ = head_and_body(writer(version="1.0").first(b"hello", more=False))
    assert headers[b"connection"] == b"keep-alive"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 404)])
def test_where_there_is_no_body_none_is_sent(method, status):
    response = writer(status, [(b"content-length", b"5")], method=method)
    _, headers, body = head_and_body(response.first(b"hello", more=False))
    assert body == b"" and not response.closes
    assert (b"content-length" in headers) == (status != 204)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204)])
def test_where_there_is_no_body_there_are_no_chunks_either(method, status):
    response = writer(status, method=method)
    _, headers, body = head_and_body(response.first(b"hello", more=True))
    assert body + response.next(b"more", more=False) == b""
    assert b"transfer-encoding" not in headers


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\x00b"),
        (b"x\r\ny", b"a"),
        (b"x: y", b"a"),
        (b"x y", b"a"),
        (b"", b"a"),
        (b"x\xff", b"a"),
        (b"content-length", b"-1"),
        (b"content-length", b"5\r\n"),
        (b"content-length", b"9" * 30),
        (b"content-length", b""),
    ],
)
def test_a_header_that_would_break_out_of_its_line_is_refused(header):
    with pytest.raises(ResponseError):
        writer(headers=[header])


@pytest.mark.parametrize("length", [0, 1, 62, 63, 64, 65, 1_000])
@pytest.mark.parametrize("break_out", [b"", b"\n", b"\r", b"\0"])
def test_a_value_is_sent_or_refused_whatever_its_length(length, break_out):
    value = b"v" * (length - len(break_out)) + break_out
    for _ in range(2):  # a line that is known is no other line
        if break_out:
            with pytest.raises(ResponseError):
                writer(headers=[(b"X-Long", value)])
        else:
            _, headers, _ = head_and_body(writer(headers=[(b"X-Long", value)]).first(b"", more=False))
            assert headers[b"x-long"] == value


def test_of_short_values_and_of_names_so_many_are_remembered_and_no_long_ones():
    header_line.cache_clear()
    writer(headers=[(b"x-a", b"v" * 64), (b"x-a", b"v" * 65)])
    assert header_line.cache_info().currsize == 0
    writer(headers=[(b"x-a", b"v" * 63), (b"x-a", b"")])
    assert header_line.cache_info().currsize == 2
    writer(headers=[(b"x-%d" % number, b"v") for number in range(2_000)])
    assert (header_line.cache_info().currsize, header_name.cache_info().currsize) == (256, 1024)


@pytest.mark.parametrize("digits", [1, 17, 18])
def test_a_length_has_18_digits_at_most(digits):
    value = b"1" * digits
    _, headers, _ = head_and_body(writer(method="HEAD", headers=[(b"content-length", value)]).first(b"", more=False))
    assert headers[b"content-length"] == value
    with pytest.raises(ResponseError):
        writer(method="HEAD", headers=[(b"content-length", b"1" * 19)])


@pytest.mark.parametrize("status", [200, 999])
def test_any_final_status_can_be_sent(status):
    assert writer(status).first(b"", more=False).startswith(b"HTTP/1.1 %d " % status)


def test_two_lengths_are_refused():
    with pytest.raises(ResponseError):
        writer(headers=[(b"content-length", b"1"), (b"Content-Length", b"1")])


@pytest.mark.parametrize("status", [100, 101, 103, 199, 0, 1000])
def test_only_a_final_status_can_be_sent(status):
    with pytest.raises(ResponseError):
        writer(status)


@pytest.mark.parametrize(("body", "more"), [(b"123456", True), (b"123456", False), (b"1234", False)])
def test_a_body_that_is_not_as_long_as_announced_is_refused(body, more):
    with pytest.raises(ResponseError):
        writer(headers=[(b"content-length", b"5")]).first(body, more=more)


def test_a_body_of_the_announced_length_may_come_in_pieces():
    response = writer(headers=[(b"content-length", b"5")])
    _, _, body = head_and_body(response.first(b"12", more=True))
    assert body + response.next(b"345", more=True) + response.next(b"", more=False) == b"12345"


def test_how_the_message_travels_is_the_servers_to_say():
    response = writer(headers=[(b"Transfer-Encoding", b"gzip"), (b"Connection", b"keep-alive"), (b"Keep-Alive", b"x")])
    _, headers, _ = head_and_body(response.first(b"hello", more=False))
    assert headers.keys() == {b"content-length", b"date"}


@pytest.mark.parametrize(
    "response",
    [writer(keep_alive=False), writer(headers=[(b"connection", b"Close")])],
    ids=["the client", "the application"],
)
def test_who_wants_the_connection_closed_has_it_closed(response):
    _, headers, _ = head_and_body(response.first(b"", more=False))
    assert headers[b"connection"] == b"close" and response.closes


PIECES = st.lists(st.binary(max_size=40), min_size=1, max_size=5)


@given(
    pieces=PIECES,
    announced=st.booleans(),
    status=st.sampled_from([200, 201, 204, 304, 404, 500]),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    keep_alive=st.booleans(),
)
@settings(deadline=None)
def test_h11_reads_the_response_that_was_meant(pieces, announced, status, method, keep_alive):
    whole = b"".join(pieces)
    headers = [(b"content-length", b"%d" % len(whole))] if announced else []
    response = writer(status, headers, method=method, keep_alive=keep_alive)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "t")]))
    client.send(h11.EndOfMessage())
    for number, piece in enumerate(pieces):
        write = response.next if number else response.first
        data = write(piece, more=number < len(pieces) - 1)
        if data:  # nothing would mean the end of the connection
            client.receive_data(data)
    head, body = client.next_event(), b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert (head.status_code, isinstance(event, h11.EndOfMessage)) == (status, True)
    assert body == (b"" if method == "HEAD" or status in (204, 304) else whole)
    assert (client.their_state is h11.MUST_CLOSE or client.their_state is h11.CLOSED) == (not keep_alive)
    assert client.trailing_data == (b"", False)
