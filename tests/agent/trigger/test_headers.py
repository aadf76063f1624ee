"""Headers: names without case."""

from __future__ import annotations

import pytest

from definable.agent.trigger import Headers

HEADERS = Headers([(b"Content-Type", b"text/plain"), (b"X-A", b"1"), (b"x-a", b"2"), (b"X-N", b"caf\xe9")])


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
def test_names_have_no_case(name: str) -> None:
    assert HEADERS[name] == HEADERS.get(name) == "text/plain"
    assert name in HEADERS


def test_repeated_ones_are_joined() -> None:
    assert HEADERS["x-a"] == "1, 2"


def test_what_is_absent_is_absent() -> None:
    assert "x-b" not in HEADERS
    assert 5 not in HEADERS
    assert HEADERS.get("x-b") is None
    with pytest.raises(KeyError):
        HEADERS["x-b"]


def test_is_a_mapping() -> None:
    assert list(HEADERS) == ["content-type", "x-a", "x-n"]
    assert len(HEADERS) == 3
    assert dict(HEADERS)["x-n"] == "café"
    assert Headers([(b"A", b"1")]) == {"a": "1"}
    assert hash(Headers([(b"A", b"1")])) == hash(Headers([(b"a", b"1")]))
    assert Headers() == {}
