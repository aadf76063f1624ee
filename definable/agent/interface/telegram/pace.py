"""How fast a bot may send: pure.

A message a second to one chat, 20 a minute to a group, 30 a second in all
(https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this). The buckets stay below in every
window of that length, their bursts included.
"""

from __future__ import annotations

from definable.agent.interface.token_bucket import TokenBucket

MAX_CHATS = 10_000
"""Chats that are remembered, before those that have been silent are forgotten."""


class SendPace:
    """Says when the next message may be sent."""

    __slots__ = ("_chats", "_groups", "_overall")

    def __init__(self) -> None:
        self._overall = TokenBucket(rate=25.0, burst=5.0)
        self._chats: dict[str, TokenBucket] = {}
        self._groups: dict[str, TokenBucket] = {}

    def take(self, chat_id: str, now: float) -> float:
        """Take a chat's next place; returns the seconds until it comes.

        Args:
            chat_id: Groups have negative ids.
            now: Seconds of a clock that never goes back.
        """
        self._forget_silent(now)
        seconds = _bucket(self._chats, chat_id, rate=1.0, burst=1.0).take(now)
        if chat_id.startswith("-"):
            seconds = max(seconds, _bucket(self._groups, chat_id, rate=0.25, burst=5.0).take(now))
        return max(seconds, self._overall.take(now))

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
