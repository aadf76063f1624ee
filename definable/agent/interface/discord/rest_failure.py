"""What an answer of the HTTP API that is no success means: pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)

from .rate_limit import number

DEFAULT_RETRY_AFTER = 1.0
"""Seconds, where a 429 does not say how long."""

HIDDEN_HISTORY = 160002, 160009
"""Codes: cannot reply to, or refer to, a message without permission to read the message history (Discord's "Opcodes and
Status Codes", JSON)."""


class ReplyRefused(InterfaceMessageError):
    """The bot may write in the channel, and not read its history: it cannot show a message as a reply."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One try that failed."""

    error: InterfaceError
    transient: bool
    """Whether the same request may succeed later."""
    retry_after: float | None = None
    """Of a 429: seconds until it may be sent again."""
    is_global: bool = False
    """Of a 429: whether it is about all routes."""


def explain(where: str, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Say what an answer means.

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
            return Failure(InterfaceAuthenticationError(f"Discord refuses the bot's token ({words})"), transient=False)
        case 429:
            return _limited(words, headers, document)
        case 400 | 403 if document.get("code") in HIDDEN_HISTORY:
            return Failure(ReplyRefused(words, status=status), transient=False)
        case _ if status >= 500:
            return Failure(InterfaceConnectionError(words, status=status), transient=True)
        case _:
            return Failure(InterfaceMessageError(words, status=status), transient=False)


def unfetched(status: int) -> InterfaceError:
    """What an answer of the CDN that is no file means."""
    words = f"an attachment could not be fetched: Discord's CDN says {status}"
    if status == 429 or status >= 500:
        return InterfaceConnectionError(words, status=status)
    return InterfaceMessageError(words, status=status)


def _limited(words: str, headers: Mapping[str, str], document: dict[str, Any]) -> Failure:
    retry_after = number(document.get("retry_after"))
    if retry_after is None:
        retry_after = number(headers.get("retry-after"))
    if retry_after is None:
        retry_after = DEFAULT_RETRY_AFTER
    # A proxy's 429 is no JSON: it has shut out the address, whatever is asked.
    is_global = document.get("global") is True or "x-ratelimit-global" in headers or not document
    error = InterfaceRateLimitError(words, retry_after=retry_after)
    return Failure(error, transient=True, retry_after=retry_after, is_global=is_global)


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
