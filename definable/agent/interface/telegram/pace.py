"""How fast a bot may send: pure.

A message a second to one chat, 20 a minute to a group, 30 a second in all
(https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this). The buckets stay below in every
window of that length, their bursts included.
"""

from __future__ import annotations

from definable.agent.interface.token_bucket import TokenBucket

MAX_CHATS = 10_000
"""Chats that are remembered, before those that have been silent are forgotten."""

SHORTEST_WAIT = 0.001
"""Seconds: what rounding leaves over would be waited for again and again."""


class SendPace:
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
