"""An event's data as JSON and back, and what is said of data that is not JSON."""

from __future__ import annotations

from datetime import date
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.bus.batch import decode_data, encode_data
from definable.errors import ConfigurationError, StorageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters()), JSON))
def test_json_comes_back_as_it_was(data: dict[str, Any]) -> None:
    assert decode_data(encode_data("job", data)) == data


def test_half_of_a_surrogate_pair_survives() -> None:
    assert decode_data(encode_data("job", {"\ud83d": "\udc08"})) == {"\ud83d": "\udc08"}


def test_tuples_come_back_as_lists_and_keys_as_strings() -> None:
    assert decode_data(encode_data("job", {"body": {1: (2, 3)}})) == {"body": {"1": [2, 3]}}


@pytest.mark.parametrize(
    ("body", "culprit"),
    [
        ({"when": date(2026, 1, 2)}, "body.when is datetime.date(2026, 1, 2), a datetime.date"),
        ({"items": [1, {"tags": {"a"}}]}, "body.items[1].tags is {'a'}, a set"),
        ({"fine": {"a": [1]}, "too": [{}, None], "tags": {"a"}}, "body.tags is {'a'}, a set"),
        ({"raw": b"x"}, "body.raw is b'x', a bytes"),
        ({("a", 1): 1}, "body has the key ('a', 1), a tuple"),
        (object, "body is <class 'object'>, a type"),
        ({"items": (1, MappingProxyType({"a": 1}))}, "body.items[1] is a mappingproxy, not a dict"),
    ],
)
def test_the_error_names_the_trigger_the_place_and_the_type(body: Any, culprit: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        encode_data("event(signup)", {"body": body})
    assert str(caught.value) == f"the event for 'event(signup)' cannot be accepted, its bus keeps JSON: {culprit}"


def test_the_data_itself_may_be_any_mapping() -> None:
    assert decode_data(encode_data("job", MappingProxyType({"body": 1}))) == {"body": 1}
    with pytest.raises(ConfigurationError, match="keeps JSON: body is b'x', a bytes"):
        encode_data("job", MappingProxyType({"body": b"x"}))
    with pytest.raises(ConfigurationError, match="keeps JSON: the data has the key b'x', a bytes"):
        encode_data("job", MappingProxyType({b"x": 1}))  # type: ignore[dict-item]


def test_data_that_holds_itself_is_refused() -> None:
    data: dict[str, Any] = {}
    data["body"] = data
    with pytest.raises(ConfigurationError, match="Circular reference"):
        encode_data("job", data)


@pytest.mark.parametrize("stored", [b"{", b"[]", b"\xff", b"", 5])
def test_stored_data_that_is_none_is_a_clear_error(stored: Any) -> None:
    with pytest.raises(StorageError, match="a stored event cannot be read"):
        decode_data(stored)
