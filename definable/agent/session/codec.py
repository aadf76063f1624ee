"""Messages and session states as bytes: what the stores beyond this process's memory keep.

The bytes are compact JSON in UTF-8. A model may write half of a surrogate pair, which UTF-8 proper cannot hold: it is
passed through, as `json.loads` reads it.
"""

from __future__ import annotations

import json
from typing import Any, cast

from definable.errors import ConfigurationError, StorageError
from definable.model.message import Message
from definable.model.message_json import message_from_json, message_to_json


def encode_message(message: Message) -> bytes:
    """The message as bytes; the same bytes whenever the message is the same."""
    return _encode(message_to_json(message))


def decode_message(body: bytes) -> Message:
    """The message of `encode_message`'s bytes, also of those that a newer version wrote.

    Raises:
        StorageError: The bytes are no message.
    """
    try:
        return message_from_json(json.loads(body))
    except ValueError as error:
        raise StorageError(f"a stored message cannot be read: {error}") from error


def encode_state(session_id: str, state: dict[str, Any]) -> bytes:
    """A session's state as bytes.

    Args:
        session_id: Whose state it is; for the error.
        state: What to encode. As everywhere in JSON, keys come back as strings and tuples as lists.

    Raises:
        ConfigurationError: The state holds what JSON cannot.
    """
    try:
        return _encode(state)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"the session_state of {session_id!r} cannot be stored, this store keeps JSON: {error}"
        ) from error


def decode_state(body: bytes) -> dict[str, Any]:
    """The state of `encode_state`'s bytes.

    Raises:
        StorageError: The bytes are no state.
    """
    try:
        state: object = json.loads(body)
    except ValueError as error:
        raise StorageError(f"a stored session_state cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise StorageError(f"a stored session_state cannot be read: it is a {type(state).__name__}, not an object")
    return cast("dict[str, Any]", state)


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
