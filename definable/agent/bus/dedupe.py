"""Which dedupe keys were seen: pure, bounded by time, by number and by size."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from math import frexp

MAX_KEYS = 100_000
"""Of about the same time to live: the oldest are forgotten beyond it."""


DIGEST_SIZE = 20
"""Bytes of a key's digest."""


def digest(key: str) -> str:
    """What is kept of a dedupe key, whatever its length: whoever sends a webhook may choose it."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_SIZE).hexdigest()


def is_digest(stored: str) -> bool:
    """Whether a stored key is a digest; earlier versions stored keys as they were."""
    return len(stored) == 2 * DIGEST_SIZE and not set(stored) - set("0123456789abcdef")


def _ignore(key: str) -> None: ...


class DedupeWindow:
    """Remembers keys, each for its time to live.

    Keys of about the same time to live share a bound, so that those of a kind that comes often (the firings of a job,
    an hour each) do not crowd out those of one that must be remembered for long (deliveries of webhooks, a day).

    Args:
        on_forget: Told every key that is forgotten because of its age, or to make room.
    """

    __slots__ = ("_classes", "_on_forget")

    def __init__(self, on_forget: Callable[[str], None] = _ignore) -> None:
        self._classes: dict[int, dict[str, float]] = {}
        """By the power of two above the time to live: when keys expire, in the order in which they were claimed."""
        self._on_forget = on_forget

    def claim(self, key: str, ttl: float, now: float) -> bool:
        """Remember a key for `ttl` seconds from `now` (seconds, any clock); False when it is remembered already."""
        if self.remembers(key, now):
            return False
        self.release(key)
        kind = frexp(ttl)[1]
        expiries = self._classes.setdefault(kind, {})
        for others in self._classes.values():
            self._forget(others, now, MAX_KEYS if others is expiries else MAX_KEYS + 1)
        expiries[key] = now + ttl
        return True

    def remembers(self, key: str, now: float) -> bool:
        """Whether a key is taken."""
        return any(expiries.get(key, now) > now for expiries in self._classes.values())

    def release(self, key: str | None) -> None:
        """Forget a key: its work was not accepted after all."""
        if key is not None:
            for expiries in self._classes.values():
                expiries.pop(key, None)

    def _forget(self, expiries: dict[str, float], now: float, limit: int) -> None:
        while expiries:
            oldest = next(iter(expiries))
            if expiries[oldest] > now and len(expiries) < limit:
                return
            del expiries[oldest]
            self._on_forget(oldest)
