"""Headers: names without case."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from definable.agent.trigger import Headers
from definable.agent.trigger.request import UndecodedHeaders

HEADERS = Headers([(b"Content-Type", b"text/plain"), (b"X-A", b"1"), (b"x-a", b"2"), (b"X-N", b"caf\xe9")])


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
def test_names_have_no_case(name: str) -> None:
    assert HEADERS[name] == HEADERS.get(name) == "text/plain"
    assert name in HEADERS


def test_cookies_of_several_headers_are_joined_as_cookies_are() -> None:
    headers = Headers([(b"cookie", b"a=1"), (b"x", b"1"), (b"Cookie", b"b=2"), (b"cookie", b"c=3"), (b"x", b"2")])
    assert dict(headers) == {"cookie": "a=1; b=2; c=3", "x": "1, 2"}


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


def test_is_a_dict_that_json_knows() -> None:
    assert isinstance(HEADERS, dict)
    assert json.loads(json.dumps(HEADERS)) == {"content-type": "text/plain", "x-a": "1, 2", "x-n": "café"}
    assert {**HEADERS}["x-a"] == "1, 2"
    assert HEADERS | {"b": "2"} == {**HEADERS, "b": "2"}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), Headers])
def test_a_copy_finds_names_whatever_their_case(again: Callable[[Headers], Headers]) -> None:
    assert again(HEADERS) == HEADERS
    assert again(HEADERS)["X-A"] == "1, 2"


CHANGES: list[Callable[[Any], Any]] = [
    lambda headers: headers.__setitem__("x-a", "3"),
    lambda headers: headers.__delitem__("x-a"),
    lambda headers: headers.update({"x-a": "3"}),
    lambda headers: headers.setdefault("x-b", "3"),
    lambda headers: headers.pop("x-a"),
    lambda headers: headers.popitem(),
    lambda headers: headers.clear(),
    lambda headers: headers.__ior__({"x-a": "3"}),
]


@pytest.mark.parametrize("change", CHANGES)
def test_nobody_can_change_them_and_the_error_says_how_to_get_a_copy(change: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"read-only: change a copy, dict\(event.headers\)"):
        change(HEADERS)
    changed = HEADERS.copy()
    changed["x-a"] = "3"
    assert (changed["x-a"], HEADERS["x-a"]) == ("3", "1, 2")


def test_those_that_are_decoded_late_are_the_same() -> None:
    late = UndecodedHeaders([(b"Content-Type", b"text/plain"), (b"X-A", b"1"), (b"x-a", b"2"), (b"X-N", b"caf\xe9")])
    assert (late["X-a"], late.get("x-b"), late.get("x-b", "no"), "CONTENT-TYPE" in late) == ("1, 2", None, "no", True)
    assert dict(late) == Headers(late) == HEADERS
    assert len(late) == 3
