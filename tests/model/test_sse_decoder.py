"""The SSE decoder against the standard, and against bytes cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.model import sse
from definable.model.sse import EventTooLong, SSEDecoder


def decode(*chunks: bytes) -> list[str]:
    decoder = SSEDecoder()
    return [data for chunk in chunks for data in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\ndata: two\n\n", ["one", "two"]),
        (b"data: one\r\n\r\ndata: two\r\r", ["one", "two"]),
        (b"data:no space\n\ndata:  two spaces\n\n", ["no space", " two spaces"]),
        (b"data: a\ndata: b\ndata\n\n", ["a\nb\n"]),
        (b": keep-alive\n\n: OPENROUTER PROCESSING\n\ndata: x\n\n", ["x"]),
        (b"event: ping\nid: 7\nretry: 10\ndata: x\n\n", ["x"]),
        (b"event: ping\n\n", []),
        (b"\xef\xbb\xbfdata: after a BOM\n\n", ["after a BOM"]),
        (b"database: no\n\n", []),
        (b"data: unfinished", []),
        (b"data: unfinished\n", []),
        ("data: żółć 🦆\n\n".encode(), ["żółć 🦆"]),
        (b"data: a\x0b\x0c\xc2\x85b\n\n", ["a\x0b\x0c\x85b"]),
    ],
)
def test_events(stream: bytes, events: list[str]) -> None:
    assert decode(stream) == events
    assert decode(*[stream[at : at + 1] for at in range(len(stream))]) == events


def test_an_event_is_out_with_its_last_byte() -> None:
    decoder = SSEDecoder()
    assert list(decoder.feed(b"data: x\r\n\r")) == ["x"]
    assert list(decoder.feed(b"\ndata: y\n")) == []
    assert list(decoder.feed(b"\n")) == ["y"]


LINES = st.lists(st.sampled_from(["data: x", "data: żółć", "data:", ": c", "id: 1", "", "", 'data: {"a": 1}']))


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 60)))
def test_where_the_bytes_are_cut_does_not_matter(lines: list[str], end: str, cuts: list[int]) -> None:
    stream = "".join(line + end for line in lines).encode()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(bounds)]
    assert decode(*pieces) == decode(stream)


@pytest.mark.parametrize("piece", [b"data: xxxxxxxx", b"data: xxxxxxxx\n"])
def test_an_endless_event_is_refused(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(EventTooLong):
        decode(*[piece] * 20)


def test_many_small_events_are_not_one_endless_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    assert len(decode(*[b"data: xxxxxxxx\n\n"] * 100)) == 100
