"""JSON that leaves the service: no text, bytes or number of a model or user makes it fail."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent import ToolResult
from definable.json_text import json_bytes

any_text = st.text(st.characters(exclude_categories=()), max_size=8)
any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text | st.integers(), inner, max_size=3),
    max_leaves=8,
)


class Model(pydantic.BaseModel):
    text: str
    data: bytes = b""


@dataclass
class Point:
    name: str


class Unspeakable:
    def __str__(self) -> str:
        raise ZeroDivisionError


@given(any_value)
def test_every_value_is_json_in_utf8(value: Any) -> None:
    text = json_bytes(value).decode()
    json.loads(text, parse_constant=pytest.fail)
    assert not any("\ud800" <= character <= "\udfff" for character in text)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("cut \ud83d", "cut \ufffd"),
        ("whole \ud83d\ude00", "whole \N{GRINNING FACE}"),
        ({"k\udce9": ["\udce9"]}, {"k\ufffd": ["\ufffd"]}),
        (Model(text="\ud83d", data=b"ok"), {"text": "\ufffd", "data": "ok"}),
        ([Point("\udce9"), float("nan"), float("inf")], [{"name": "\ufffd"}, None, None]),
        ([b"ok", b"\xff"], ["ok", "/w=="]),
        ({"a": "\0", "b": 10**30}, {"a": "\0", "b": 10**30}),
        ([Unspeakable(), "\ud83d"], ["<Unspeakable>", "\ufffd"]),
    ],
)
def test_what_utf8_and_json_lack_is_replaced_where_it_stands(value: Any, written: Any) -> None:
    assert json.loads(json_bytes(value)) == written


def test_a_tool_may_return_what_is_no_text() -> None:
    assert ToolResult.of({"name": "caf\udce9"}).content == '{"name":"caf\ufffd"}'
    assert ToolResult.of(b"\xff").content == '"/w=="'
