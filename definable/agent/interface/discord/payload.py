"""What is said over the gateway: JSON objects with an opcode. Pure; source: Discord's "Gateway Events"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast


class Opcode(IntEnum):
    """What a payload is; of those that exist, the ones that a bot without voice meets."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    RESUME = 6
    RECONNECT = 7
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


class PayloadError(ValueError):
    """What was received is no gateway payload."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload that was received."""

    op: int
    """An `Opcode`, or one that is not known here."""
    data: Any = None
    sequence: int | None = None
    """Of a dispatch: its number within the session."""
    event: str | None = None
    """Of a dispatch: what happened."""

    @property
    def fields(self) -> dict[str, Any]:
        """The data, where it is an object; empty where it is not."""
        data: object = self.data
        return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def decode(text: str | bytes) -> Payload:
    """Read one payload.

    Raises:
        PayloadError: It is not JSON, or not a payload.
    """
    try:
        parsed: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PayloadError("not JSON") from error
    if not isinstance(parsed, dict):
        raise PayloadError("not a JSON object")
    body = cast("dict[str, Any]", parsed)
    op, sequence, event = _integer(body.get("op")), body.get("s"), body.get("t")
    if op is None or (sequence is not None and _integer(sequence) is None):
        raise PayloadError("without an opcode or with a sequence number that is none")
    return Payload(op, body.get("d"), sequence, event if isinstance(event, str) else None)


def encode(op: Opcode, data: Any) -> str:
    """Write one payload."""
    return json.dumps({"op": op, "d": data}, separators=(",", ":"))


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
