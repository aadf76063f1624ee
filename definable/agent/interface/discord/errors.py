"""What Discord's API answers when it does not do what it is asked for.

Source: Discord's "Opcodes and Status Codes", HTTP and JSON; "Rate Limits".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)
from definable.agent.interface.http_client import number

DEFAULT_RETRY_AFTER = 1.0
"""Seconds, where a 429 does not say how long."""

UNKNOWN_CHANNEL = 10003
"""The code for a channel or thread that was deleted, or that the bot never saw."""

UNKNOWN_INTERACTION = 10015, 10062, 50027
"""Codes: unknown webhook, unknown interaction, invalid webhook token: its time is over, or it was not acknowledged."""

HIDDEN_HISTORY = 160002, 160009
"""Codes: cannot reply to, or refer to, a message without permission to read the message history (JSON)."""


class DiscordRefusal(InterfaceMessageError):
    """Discord refuses a request.

    Args:
        message: What happened.
        status: Of the answer.
        code: Discord's own ("Opcodes and Status Codes", JSON); 0 where it has none.
    """

    def __init__(self, message: str, status: int, code: int) -> None:
        super().__init__(message, status=status, platform="discord")
        self.code = code


class DiscordRateLimitError(InterfaceRateLimitError):
    """A 429.

    Args:
        message: What happened.
        retry_after: Seconds until the request may be made again.
        is_global: Whether no route may be asked until then.
    """

    def __init__(self, message: str, retry_after: float, *, is_global: bool) -> None:
        super().__init__(message, retry_after=retry_after)
        self.is_global = is_global


def error_of(where: str, status: int, headers: Mapping[str, str], body: bytes) -> InterfaceError:
    """What an answer that is no success means.

    Args:
        where: Method and path.
        status: Of the answer; 400 or more, or a redirect.
        headers: Looked up in lower case.
        body: JSON from Discord, a page from the proxies before it.
    """
    document = _document(body)
    words = f"{where}: {status} {_words(document)}".rstrip()
    match status:
        case 401:
            return InterfaceAuthenticationError(f"Discord refuses the bot's token ({words})")
        case 429:
            asked = number(document.get("retry_after")), number(headers.get("retry-after")), DEFAULT_RETRY_AFTER
            retry_after = next(seconds for seconds in asked if seconds is not None)
            # A proxy's 429 is no JSON: it has shut out the address, whatever is asked.
            is_global = document.get("global") is True or "x-ratelimit-global" in headers or not document
            return DiscordRateLimitError(words, retry_after, is_global=is_global)
        case _ if status >= 500:
            return InterfaceConnectionError(words, status=status)
        case _:
            return DiscordRefusal(words, status, int(number(document.get("code")) or 0))


def _words(document: dict[str, Any]) -> str:
    message, code = document.get("message"), document.get("code")
    words = message if isinstance(message, str) else ""
    details = json.dumps(document["errors"])[:300] if "errors" in document else ""
    return " ".join(part for part in (words, f"(code {code})" if code else "", details) if part)


def _document(body: bytes) -> dict[str, Any]:
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def read_id(body: bytes) -> str | None:
    """The id of what Discord answers with; None when it has none."""
    id: object = _document(body).get("id")
    return id if isinstance(id, str) and id.isdecimal() else None
