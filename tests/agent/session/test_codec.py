"""Messages and states as bytes: nothing is lost, and newer versions can be read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.session.durable import decode_message, decode_state, encode_message, encode_state
from definable.errors import ConfigurationError, StorageError
from definable.model import Image, Message, ToolCall
from definable.model.message import message_from_json, message_to_json

TEXT = st.text(st.characters())
"""Surrogates included: models write them."""

IMAGES = st.one_of(
    st.builds(Image, url=TEXT, media_type=TEXT),
    st.builds(lambda data, media_type: Image(data=data, media_type=media_type), st.binary(), TEXT),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)

PROVIDER_DATA = st.none() | st.dictionaries(TEXT, JSON, min_size=1)

MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    TEXT,
    st.lists(st.builds(ToolCall, TEXT, TEXT, TEXT, PROVIDER_DATA), max_size=3).map(tuple),
    st.none() | TEXT,
    st.lists(IMAGES, max_size=3).map(tuple),
    TEXT,
    st.none() | TEXT,
    PROVIDER_DATA,
)


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert decode_message(encode_message(message)) == message
    assert message_from_json(message_to_json(message)) == message


@given(st.dictionaries(TEXT, JSON))
def test_a_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    assert decode_state(encode_state("s", state)) == state


@given(MESSAGES, st.dictionaries(st.text(min_size=1).map("new_".__add__), JSON, min_size=1))
def test_what_a_newer_version_adds_is_ignored(message: Message, added: dict[str, Any]) -> None:
    value = message_to_json(message) | added
    value["tool_calls"] = [call | added for call in value.get("tool_calls", ())]
    value["images"] = [image | added for image in value.get("images", ())]
    assert message_from_json(value) == message


def test_no_field_is_forgotten() -> None:
    """A field that is added to the messages must be added to their JSON as well."""
    assert [field.name for field in dataclasses.fields(Message)] == [
        "role",
        "content",
        "tool_calls",
        "tool_call_id",
        "images",
        "reasoning",
        "provider",
        "provider_data",
    ]
    assert [field.name for field in dataclasses.fields(ToolCall)] == ["name", "arguments", "id", "provider_data"]
    assert [field.name for field in dataclasses.fields(Image)] == ["url", "data", "media_type"]


def test_the_json_is_lean() -> None:
    assert encode_message(Message("user", "Привет")) == '{"role":"user","content":"Привет"}'.encode()
    image = Image(data=b"\xff\x00", media_type="image/gif")
    assert message_to_json(Message("user", images=(image,)))["images"] == [{"data": "/wA=", "media_type": "image/gif"}]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "user",
        {},
        {"content": "no role"},
        {"role": "user", "tool_calls": 1},
        {"role": "user", "tool_calls": ["x"]},
        {"role": "user", "tool_calls": [{"id": "x"}]},
        {"role": "user", "images": [{}]},
        {"role": "user", "images": [{"data": "%%%"}]},
        {"role": "user", "images": [{"data": 1}]},
    ],
)
def test_what_is_no_message_is_a_clear_error(value: object) -> None:
    with pytest.raises(ValueError):
        message_from_json(value)
    with pytest.raises(StorageError, match="a stored message cannot be read"):
        decode_message(json.dumps(value).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_what_is_no_state_is_a_clear_error(body: bytes) -> None:
    with pytest.raises(StorageError, match="a stored session_state cannot be read"):
        decode_state(body)


@pytest.mark.parametrize("state", [{"x": object()}, {"x": {1, 2}}, {"x": b""}, {(1, 2): 3}])
def test_a_state_that_is_not_json_is_a_clear_error(state: dict[Any, Any]) -> None:
    with pytest.raises(ConfigurationError, match="session_state of 's' cannot be stored"):
        encode_state("s", state)


def test_a_state_that_holds_itself_is_a_clear_error() -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(ConfigurationError, match="Circular"):
        encode_state("s", state)
