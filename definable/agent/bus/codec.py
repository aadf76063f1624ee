"""An event's data as JSON and back, for buses that are more than memory: pure.

ASCII, so that half of a surrogate pair, which a model may write, is an escape like any other. As everywhere in JSON,
keys come back as strings and tuples as lists.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from definable.errors import ConfigurationError, StorageError

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

_SCALARS = (str, int, float, type(None))
"""What JSON has beside objects and arrays; a bool is an int."""


def encode_data(name: str, data: Mapping[str, Any]) -> bytes:
    """The data as bytes.

    Args:
        name: Whom it is for; for the error.
        data: What to encode.

    Raises:
        ConfigurationError: The data holds what JSON cannot; the message says where, and what it is.
    """
    try:
        return _encode(dict(data)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        culprit = _culprit(data, "") if isinstance(error, TypeError) else None
        raise ConfigurationError(
            f"the event for {name!r} cannot be accepted, its bus keeps JSON: {culprit or error}"
        ) from error


def decode_data(data: bytes) -> dict[str, Any]:
    """The data of `encode_data`'s bytes.

    Raises:
        StorageError: The bytes are no data.
    """
    try:
        decoded: object = _decode(data.decode("ascii"))
    except (ValueError, AttributeError, RecursionError) as error:
        raise StorageError(f"a stored event cannot be read: {error}") from error
    if not isinstance(decoded, dict):
        raise StorageError(f"a stored event cannot be read: it is a {type(decoded).__name__}, not an object")
    return cast("dict[str, Any]", decoded)


def _culprit(value: object, path: str) -> str | None:
    """The first value in there that JSON cannot hold, or the first such key, in words."""
    if isinstance(value, Mapping):
        return _culprit_in_object(cast("Mapping[object, object]", value), path)
    if isinstance(value, (list, tuple)):
        found = (_culprit(item, f"{path}[{i}]") for i, item in enumerate(cast("Sequence[object]", value)))
        return next(filter(None, found), None)
    return None if isinstance(value, _SCALARS) else f"{path} is {reprlib.repr(value)}, a {_type_name(value)}"


def _culprit_in_object(value: Mapping[object, object], path: str) -> str | None:
    for key, item in value.items():
        if not isinstance(key, _SCALARS):
            return f"{path or 'the data'} has the key {reprlib.repr(key)}, a {_type_name(key)}"
        if culprit := _culprit(item, f"{path}.{key}" if path else f"{key}"):
            return culprit
    return f"{path} is a {_type_name(value)}, not a dict" if path and not isinstance(value, dict) else None


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
