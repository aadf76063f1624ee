"""JSON for whatever leaves the service (HTTP answers, server-sent events, tool results, chat messages), and how many
bytes values hold in memory, about: what the bounds of stores, requests and the run registry count; pure.

Models and users bring text that UTF-8 cannot hold (half of a surrogate pair, an undecodable file name), bytes that are
no text, and numbers that JSON lacks. None of it makes the encoding fail: one such value in a list would otherwise make
the whole list an error for everybody who asks for it. What a store or a bus keeps has codecs that lose nothing.

Texts and bytes are counted as Python holds them (a text with one emoji takes four bytes a character), what is around
them by a flat figure. Exact enough for a bound, and cheap enough for every run.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from sys import getsizeof
from typing import Any, cast

from pydantic_core import PydanticSerializationError, to_json


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """A value as JSON in UTF-8.

    - A surrogate pair that was written in halves becomes its character, a lone half U+FFFD (`well_formed`).
    - NaN and the infinities become `null`, which RFC 8259 has no numbers for.
    - Bytes become the text that they are in UTF-8, or base64 where they are none.
    - What JSON has no form for becomes its `str()`.

    Raises:
        ValueError: The value contains itself.
    """
    try:
        return to_json(value, fallback=text_of, inf_nan_mode="null", indent=indent)
    except PydanticSerializationError:  # rare, so that the usual value is looked at once
        pass
    try:
        return to_json(_encodable(value), fallback=text_of, inf_nan_mode="null", indent=indent)
    except RecursionError as error:
        raise ValueError(f"circular reference: a {type(value).__qualname__} that contains itself is no JSON") from error


def well_formed(text: str) -> str:
    """A text that UTF-8 can carry: a surrogate pair that was written in halves is its character, a lone half U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def text_of(value: object) -> str:
    """`str(value)`, or the name of its type where that fails: a user's own `__str__` may raise."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__qualname__}>"


def _encodable(value: Any) -> Any:
    """The same, of text that UTF-8 can carry, keys included."""
    from pydantic import BaseModel  # heavy, and tools load without it

    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, bytes | bytearray):
        return _text_or_base64(bytes(value))
    if isinstance(value, BaseModel):
        return _encodable(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encodable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {_key(key): _encodable(item) for key, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_encodable(item) for item in cast("list[Any]", value)]
    return _leaf(value)


def _key(key: Any) -> Any:
    if isinstance(key, bytes):
        return _text_or_base64(key)
    return key if isinstance(key, int | float | None) else well_formed(text_of(key))


def _leaf(value: Any) -> Any:
    try:
        to_json(value, fallback=text_of)
    except PydanticSerializationError:
        return well_formed(text_of(value))
    return value


def _text_or_base64(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return b64encode(data).decode()


OVERHEAD = 200
"""Bytes of an object with a few fields."""

UNCOUNTED_BODY = 1024
"""Bytes of a body below which it does not count: the number of requests bounds them."""

ESTIMATED_BODY = 8 * 1024
"""Bytes of a body below which `SMALL_BODY_FACTOR` is taken: looking closer takes as long as parsing it."""

SMALL_BODY_FACTOR = 8
"""Bytes that values hold for each byte of usual JSON; 25 in the worst case."""

MAX_VISITED = 10_000
"""Parts of one value that are looked at; what lies beyond is taken to be like them."""


def parsed_size(document: bytes | str) -> int:
    """Bytes that a JSON document and the values that it is parsed into hold.

    An estimate by its punctuation: `{},` is 3 bytes, and a dict of 64 bytes with a reference to it.
    """
    if len(document) < ESTIMATED_BODY:
        return len(document) * SMALL_BODY_FACTOR
    if isinstance(document, str):
        document = document.encode("utf-8", "surrogatepass")
    count = document.count
    wide = not document.isascii() or b"\\u" in document  # one character may make each of its text's four bytes
    texts = len(document) * (5 if wide else 2)
    containers = 64 * count(b"{") + 56 * count(b"[")
    return texts + containers + 120 * count(b":") + 24 * count(b",") + 25 * count(b'"')


def value_size(value: Any) -> int:
    """Bytes of any value with what it holds: containers, and objects by their attributes."""
    size, visited, waiting = 0, 0, [value]
    while waiting and visited < MAX_VISITED:
        part = waiting.pop()
        visited += 1
        size += getsizeof(part, OVERHEAD)
        if isinstance(part, Mapping):
            items = cast("Mapping[Any, Any]", part)
            waiting += items.keys()
            waiting += items.values()
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += cast("Iterable[Any]", part)
        elif attributes := getattr(part, "__dict__", None):
            waiting += attributes.values()
    return size + size // max(visited, 1) * len(waiting)
