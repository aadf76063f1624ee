"""The fuzz target on its corpus and on bytes that resemble HTTP. To fuzz at length: `fuzz_http1.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.http1_target import SEPARATOR, check
from hypothesis import given, settings
from hypothesis import strategies as st

CORPUS = sorted((Path(__file__).parent / "corpus" / "http1").iterdir())

PIECES = st.sampled_from(
    [
        *(b"GET / HTTP/1.1\r\n", b"POST /run HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"BREW / HTTP/1.1\r\n"),
        *(b"Host: a\r\n", b"Host : a\r\n", b"host:\ta \r\n", b"Host: a\n", b" folded\r\n", b": empty\r\n"),
        *(b"Content-Length: 3\r\n", b"Content-Length: +3\r\n", b"Content-Length: 3, 3\r\n", b"Content-Length: 0x3\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked, chunked\r\n", b"Transfer-Encoding:\r\n"),
        *(
            b"Transfer-Encoding : chunked\r\n",
            b"Transfer-Encoding: \x0bchunked\r\n",
            b"Transfer-Encoding: xchunked\r\n",
        ),
        *(b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n"),
        *(b"\r\n", b"\n", b"\r", b"\x00", b"abc", b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b"3 \r\nabc\r\n", b"0\r\n\r\n"),
        *(
            b"0\r\nTrailer: a\r\n\r\n",
            b"0\r\nContent-Length: 9\r\n\r\n",
            b"-1\r\n",
            b"ffffffffffffffffff\r\n",
            SEPARATOR,
        ),
    ]
)


@pytest.mark.parametrize("path", CORPUS, ids=[path.name for path in CORPUS])
def test_what_a_fuzzer_found_once_holds(path: Path) -> None:
    check(path.read_bytes())


@given(st.lists(st.one_of(PIECES, PIECES, PIECES, st.binary(max_size=6)), max_size=14))
@settings(max_examples=1000, deadline=None)
def test_whatever_resembles_http_is_the_same_to_every_parser(pieces: list[bytes]) -> None:
    check(b"".join(pieces))


@given(st.integers(0, 6), st.lists(PIECES, max_size=4), st.lists(PIECES, max_size=4))
@settings(max_examples=500, deadline=None)
def test_pipelined_requests_are_told_apart(length: int, headers: list[bytes], rest: list[bytes]) -> None:
    head = b"POST /run HTTP/1.1\r\nHost: a\r\n" + b"".join(headers)
    check(head + b"Content-Length: %d\r\n\r\n" % length + b"x" * length + head + b"\r\n" + b"".join(rest))
