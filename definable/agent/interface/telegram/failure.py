"""What an answer of the Bot API means: pure.

```
InterfaceError
├── InterfaceAuthenticationError   401, 404: no such bot, or its token was revoked
├── InterfaceRateLimitError        429, with `parameters.retry_after`
├── InterfaceMessageError
│   └── TelegramRefusal            400, 403 and other refusals of one request
└── InterfaceConnectionError       5xx, an answer that is none, a connection that broke
    ├── TelegramConflict           409: another poller, or a webhook
    └── TelegramUnreached          the request was never sent: it may be sent again
```
Source: https://core.telegram.org/bots/api#making-requests and #responseparameters
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)


class TelegramConflict(InterfaceConnectionError):
    """Somebody else gets this bot's updates."""

    status: int | None = 409


class TelegramUnreached(InterfaceConnectionError):
    """The request never reached Telegram."""


class TelegramRefusal(InterfaceMessageError):
    """Telegram refuses a request as it stands.

    Args:
        message: What happened.
        status: Telegram's error code.
        description: Telegram's words.
        moved_to: The id of the supergroup that the chat has become.
    """

    def __init__(self, message: str, *, status: int, description: str, moved_to: int | None = None) -> None:
        super().__init__(message, status=status)
        self.description = description
        self.moved_to = moved_to

    def says(self, words: str) -> bool:
        """Whether Telegram's description has the words in it."""
        return words in self.description.lower()


def result_of(method: str, status: int, body: bytes) -> Any:
    """The `result` of a method's answer.

    Raises:
        InterfaceError: The answer says, or shows, that the method failed; see the module.
    """
    try:
        answer = from_json(body)
    except ValueError:
        raise InterfaceConnectionError(f"{method}: Telegram answered {status}, and not in JSON") from None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise InterfaceConnectionError(f"{method}: Telegram answered {status}, and not as the Bot API does")
    fields = cast("dict[str, Any]", answer)
    if fields["ok"] is True and "result" in fields:
        return fields["result"]
    raise failure_of(method, status, fields)


def failure_of(method: str, status: int, fields: Mapping[str, Any]) -> InterfaceError:
    """The error of an answer that is not ok."""
    code = _integer(fields.get("error_code")) or status
    description = str(fields.get("description", "no description"))
    message = f"{method}: Telegram answered {code}: {description}"
    raw = fields.get("parameters")
    parameters = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
    if code in (401, 404):
        return InterfaceAuthenticationError(message, status=code)
    if code == 409:
        return TelegramConflict(message)
    if code == 429:
        return InterfaceRateLimitError(message, retry_after=_integer(parameters.get("retry_after")))
    if code >= 500:
        return InterfaceConnectionError(message, status=code)
    moved_to = _integer(parameters.get("migrate_to_chat_id"))
    return TelegramRefusal(message, status=code, description=description, moved_to=moved_to)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None
