"""Which dedupe keys were seen: pure, bounded by time, by number and by size."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

MAX_KEYS = 100_000
"""The oldest keys are forgotten beyond it."""


DIGEST_SIZE = 20
"""Bytes of a key's digest."""


def digest(key: str) -> str:
    """What is kept of a dedupe key, whatever its length: whoever sends a webhook may choose it."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_SIZE).hexdigest()


def is_digest(stored: str) -> bool:
    """Whether a stored key is a digest; earlier versions stored keys as they were."""
    return len(stored) == 2 * DIGEST_SIZE and not set(stored) - set("0123456789abcdef")


def _tell_nobody(key: str) -> None: ...


class DedupeWindow:
    """Remembers keys, each for its time to live.

    Args:
        on_forget: Told every key that is forgotten because of its age, or to make room.
    """

    __slots__ = ("_expiry", "_on_forget")

    def __init__(self, on_forget: Callable[[str], None] = _tell_nobody) -> None:
        self._expiry: dict[str, float] = {}
        """In the order in which the keys were claimed."""
        self._on_forget = on_forget

    def claim(self, key: str, ttl: float, now: float) -> bool:
        """Remember a key for `ttl` seconds from `now` (seconds, any clock); False when it is remembered already."""
        if self.remembers(key, now):
            return False
        self._expiry.pop(key, None)
        self._forget(now)
        self._expiry[key] = now + ttl
        return True

    def remembers(self, key: str, now: float) -> bool:
        """Whether a key is taken."""
        return self._expiry.get(key, now) > now

    def release(self, key: str | None) -> None:
        """Forget a key: its work was not accepted after all."""
        if key is not None:
            self._expiry.pop(key, None)

    def _forget(self, now: float) -> None:
        while self._expiry:
            oldest = next(iter(self._expiry))
            if self._expiry[oldest] > now and len(self._expiry) < MAX_KEYS:
                return
            del self._expiry[oldest]
            self._on_forget(oldest)
