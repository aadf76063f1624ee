"""One request that sends something: at the bot's pace, and again where that cannot send it twice.

How fast a bot may send: pure.

A message a second to one chat, 20 a minute to a group, 30 a second in all
(https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this). The buckets stay below in every
window of that length, their bursts included.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import anyio

from definable.agent.interface.errors import InterfaceRateLimitError
from definable.concurrency.backoff import Backoff
from definable.concurrency.token_bucket import TokenBucket

from .client import BotAPI, TelegramRefusal, TelegramUnreached, Upload

MAX_CHATS = 10_000
"""Chats that are remembered, before those that have been silent are forgotten."""

SHORTEST_WAIT = 0.001
"""Seconds: what rounding leaves over would be waited for again and again."""


class RateLimiter:
    """Says when the next message may be sent: first `wait` for the chat, then `take` a place of the bot's."""

    __slots__ = ("_chats", "_groups", "_overall")

    def __init__(self) -> None:
        self._overall = TokenBucket(rate=25.0, burst=5.0)
        self._chats: dict[str, TokenBucket] = {}
        self._groups: dict[str, TokenBucket] = {}

    def wait(self, chat_id: str, now: float) -> float:
        """Seconds until a chat may be written to again.

        Args:
            chat_id: Groups have negative ids.
            now: Seconds of a clock that never goes back.
        """
        seconds = max(bucket.wait(now) for bucket in self._buckets(chat_id))
        return seconds if seconds > SHORTEST_WAIT else 0.0

    def take(self, chat_id: str, now: float) -> float:
        """Take the bot's next place for a chat that may be written to; returns the seconds until it comes."""
        self._forget_silent(now)
        seconds = self._overall.take(now)
        for bucket in self._buckets(chat_id):
            bucket.take(now + seconds)  # counted from when it is sent, or a held up message has the next at its heels
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


MAX_TRIES = 5

RETRY_BACKOFF = Backoff(jitter=0.0, max_tries=MAX_TRIES, max_retry_after=120.0)

MAX_MOVED_CHATS = 10_000


class Delivery:
    """Sends to chats, wherever they have moved.

    sendMessage has no idempotency key: a request is made again when it never reached Telegram or was refused with 429,
    never after an answer that did not come.
    """

    def __init__(self) -> None:
        self._rate_limiter = RateLimiter()
        self._moved: OrderedDict[str, str] = OrderedDict()
        """Groups that have become supergroups, with their new ids."""

    async def deliver(
        self,
        api: BotAPI,
        method: str,
        chat_id: str,
        parameters: Mapping[str, Any],
        uploads: Mapping[str, Upload] | None = None,
    ) -> Any:
        """Call a method that sends to a chat.

        Raises:
            InterfaceError: It was not sent, or nobody knows whether it was.
        """
        tries = 0
        while True:
            chat_id = self._moved.get(chat_id, chat_id)
            tries += 1
            try:
                return await self.deliver_once(api, method, chat_id, parameters, uploads)
            except TelegramRefusal as refusal:
                if refusal.moved_to is None or tries >= MAX_TRIES:
                    raise
                self._move(chat_id, str(refusal.moved_to))
            except (TelegramUnreached, InterfaceRateLimitError) as error:
                asked = error.retry_after if isinstance(error, InterfaceRateLimitError) else None
                seconds = RETRY_BACKOFF.retry_delay(tries, asked)
                if seconds is None:
                    raise
                await anyio.sleep(seconds)

    async def deliver_once(
        self,
        api: BotAPI,
        method: str,
        chat_id: str,
        parameters: Mapping[str, Any],
        uploads: Mapping[str, Upload] | None = None,
    ) -> Any:
        """As `deliver`, where a later request takes the place of one that fails.

        Raises:
            InterfaceError: It was not sent, or nobody knows whether it was.
        """
        await self._wait_for_turn(chat_id)
        return await api.call(method, {"chat_id": chat_id, **parameters}, uploads=uploads)

    async def _wait_for_turn(self, chat_id: str) -> None:
        while True:
            seconds = self._rate_limiter.wait(chat_id, anyio.current_time())
            if seconds <= 0:
                break
            await anyio.sleep(seconds)
        await anyio.sleep(self._rate_limiter.take(chat_id, anyio.current_time()))

    def _move(self, chat_id: str, moved_to: str) -> None:
        self._moved[chat_id] = moved_to
        if len(self._moved) > MAX_MOVED_CHATS:
            self._moved.popitem(last=False)
