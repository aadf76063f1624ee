"""The Bot API: its methods, what its answers mean, and how fast a bot may send.

```
InterfaceError
├── InterfaceAuthenticationError   401, 404: no such bot, or its token was revoked
├── InterfaceRateLimitError        429, with `parameters.retry_after`
├── InterfaceMessageError
│   └── TelegramRefusal            400, 403 and other refusals of one request
└── InterfaceConnectionError       5xx, an answer that is none, a connection that broke
    ├── TelegramConflict           409: another poller, or a webhook
    └── RequestNotSent             it may be sent again
```
Source: https://core.telegram.org/bots/api#making-requests and #responseparameters
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias, cast
from urllib.parse import quote

import anyio
from pydantic_core import from_json

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
    RequestNotSent,
    retried,
)
from definable.agent.interface.http_client import TOKEN, PlatformClient, open_client
from definable.agent.interface.rate_limit import TokenBucket
from definable.concurrency.backoff import Backoff

from .config import TelegramConfig

MAX_UPLOAD, MAX_LOCAL_UPLOAD = 50_000_000, 2_000_000_000
"""Bytes of a file that a bot can send, and through a server of its own
(https://core.telegram.org/bots/api#using-a-local-bot-api-server)."""

MAX_CHATS = 10_000
"""Chats that are remembered, before those that have been silent are forgotten."""

SHORTEST_WAIT = 0.001
"""Seconds: what rounding leaves over would be waited for again and again."""

RETRY_BACKOFF = Backoff(jitter=0.0, max_tries=5, max_retry_after=600.0)
"""A flood wait of up to ten minutes is waited for: the reply is made."""

Upload: TypeAlias = tuple[str, bytes, str]
"""File name, content and MIME type."""


CANNOT_WRITE = ("not enough rights", "have no rights to send", "chat_write_forbidden", "chat not found")
"""What Telegram answers with 400 means no other than its 403: the bot may not write to this chat."""


class TelegramConflict(InterfaceConnectionError):
    """Another poller, or a webhook, gets this bot's updates."""

    status: int | None = 409


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


class BotAPI:
    """Calls methods of the Bot API, those that send to a chat within the rate limits.

    Args:
        client: Made by `bot_api`.
        config: The bot's.
    """

    def __init__(self, client: PlatformClient, config: TelegramConfig) -> None:
        self._client = client
        self.config = config
        self.max_file_size: int = config.max_file_size
        """Bytes of a file that is fetched."""
        self.max_upload: int = MAX_LOCAL_UPLOAD if config.has_own_server else MAX_UPLOAD
        """Bytes of a file that Telegram takes."""
        self._rate_limiter = RateLimiter()
        self._moved: OrderedDict[str, str] = OrderedDict()
        """Groups that have become supergroups, with their new ids."""

    async def call(
        self,
        method: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        uploads: Mapping[str, Upload] | None = None,
        held_open: float = 0.0,
    ) -> Any:
        """Call a method, once.

        Args:
            method: Its name.
            parameters: Those that are None are left out.
            uploads: Files that are sent along, by parameter.
            held_open: Seconds that Telegram may hold the request open.

        Raises:
            InterfaceError: It failed; see the module.
        """
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        body: dict[str, Any] = {"json": given} if uploads is None else {"data": given, "files": dict(uploads)}
        path = f"/bot{TOKEN}/{method}"
        response = await self._client.request("POST", path, name=method, held_open=held_open, **body)
        return result_of(method, response.status_code, response.content)

    async def send(
        self,
        method: str,
        chat_id: str,
        parameters: Mapping[str, Any],
        uploads: Mapping[str, Upload] | None = None,
    ) -> Any:
        """Call a method that sends to a chat, again where that cannot send twice.

        sendMessage has no idempotency key: a request is made again when it was not sent or was refused with 429, never
        after an answer that did not come.

        Raises:
            InterfaceError: It was not sent, or it is not known whether it was.
        """
        once = partial(self.send_once, method, chat_id, parameters, uploads)
        return await retried(once, RETRY_BACKOFF, RequestNotSent, InterfaceRateLimitError)

    async def send_once(
        self,
        method: str,
        chat_id: str,
        parameters: Mapping[str, Any],
        uploads: Mapping[str, Upload] | None = None,
    ) -> Any:
        """As `send`, tried once: for requests that a later one takes the place of."""
        try:
            return await self._send_to(self._moved.get(chat_id, chat_id), method, parameters, uploads)
        except TelegramRefusal as refusal:
            if refusal.moved_to is None:
                raise
            moved_to = str(refusal.moved_to)
            self.moved(chat_id, moved_to)
        return await self._send_to(moved_to, method, parameters, uploads)

    def moved(self, chat_id: str, moved_to: str) -> None:
        """Note that a group has become a supergroup, with another id."""
        self._moved[chat_id] = moved_to
        if len(self._moved) > MAX_CHATS:
            self._moved.popitem(last=False)

    async def _send_to(
        self, chat_id: str, method: str, parameters: Mapping[str, Any], uploads: Mapping[str, Upload] | None
    ) -> Any:
        while True:
            seconds = self._rate_limiter.wait(chat_id, anyio.current_time())
            if seconds <= 0:
                break
            await anyio.sleep(seconds)
        await anyio.sleep(self._rate_limiter.take(chat_id, anyio.current_time()))
        return await self.call(method, {"chat_id": chat_id, **parameters}, uploads=uploads)

    async def download(self, path: str) -> bytes | None:
        """A file by the path that getFile gives; None when it is larger than `max_file_size`.

        Raises:
            InterfaceError: It could not be fetched.
        """
        return await self._client.download(f"/file/bot{TOKEN}/{quote(path)}", self.max_file_size)


@asynccontextmanager
async def bot_api(config: TelegramConfig) -> AsyncGenerator[BotAPI, None]:
    """The Bot API for one bot, while the context is open."""
    async with open_client(
        "Telegram",
        config.base_url,
        token=config.bot_token,
        connect_timeout=config.connect_timeout,
        request_timeout=config.request_timeout,
        proxy=config.proxy,
    ) as client:
        yield BotAPI(client, config)


class RateLimiter:
    """When the next message may be sent: first `wait` for the chat, then `take` a place of the bot's.

    A message a second to one chat, 20 a minute to a group, 30 a second in all
    (https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this). The buckets stay below in every
    window of that length, their bursts included. Times are seconds of a clock that never goes back.
    """

    __slots__ = ("_chats", "_groups", "_overall")

    def __init__(self) -> None:
        self._overall = TokenBucket(rate=25.0, burst=5.0)
        self._chats: dict[str, TokenBucket] = {}
        self._groups: dict[str, TokenBucket] = {}

    def wait(self, chat_id: str, now: float) -> float:
        """Seconds until a chat may be written to again. Groups have negative ids."""
        seconds = max(bucket.wait(now) for bucket in self._buckets(chat_id))
        return seconds if seconds > SHORTEST_WAIT else 0.0

    def take(self, chat_id: str, now: float) -> float:
        """Take the bot's next place for a chat that may be written to; returns the seconds until it comes."""
        self._forget_silent(now)
        seconds = self._overall.take(now)
        for bucket in self._buckets(chat_id):
            bucket.take(now + seconds)  # when it is sent: the next must not follow a message that waited at once
        return seconds

    def _buckets(self, chat_id: str) -> list[TokenBucket]:
        buckets = [_bucket(self._chats, chat_id, rate=1.0, burst=1.0)]
        if chat_id.startswith("-"):
            buckets.append(_bucket(self._groups, chat_id, rate=0.25, burst=5.0))
        return buckets

    def _forget_silent(self, now: float) -> None:
        for buckets in (self._chats, self._groups):
            if len(buckets) > MAX_CHATS:
                for chat_id in [chat_id for chat_id, bucket in buckets.items() if bucket.is_full(now)]:
                    del buckets[chat_id]


def _bucket(buckets: dict[str, TokenBucket], chat_id: str, *, rate: float, burst: float) -> TokenBucket:
    bucket = buckets.get(chat_id)
    if bucket is None:
        bucket = buckets[chat_id] = TokenBucket(rate, burst)
    return bucket


def result_of(method: str, status: int, body: bytes) -> Any:
    """The `result` of a method's answer.

    Raises:
        InterfaceError: The method failed; see the module.
    """
    try:
        answer = from_json(body)
    except ValueError:
        if status == 413:  # of a proxy before a server of one's own
            raise TelegramRefusal(f"{method}: too large", status=status, description="too large") from None
        raise InterfaceConnectionError(f"{method}: Telegram answered {status}, and not in JSON") from None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise InterfaceConnectionError(f"{method}: Telegram answered {status}, and not as the Bot API does")
    fields = cast("dict[str, Any]", answer)
    if fields["ok"] is True and "result" in fields:
        return fields["result"]
    raise _failure(method, status, fields)


def _failure(method: str, status: int, fields: Mapping[str, Any]) -> InterfaceError:
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
    if any(words in description.lower() for words in CANNOT_WRITE):
        code = 403
    moved_to = _integer(parameters.get("migrate_to_chat_id"))
    return TelegramRefusal(message, status=code, description=description, moved_to=moved_to)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None
