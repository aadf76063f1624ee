"""Which dedupe keys were seen: pure, bounded by time and by number. Used by `MemoryBus`."""

from __future__ import annotations

MAX_KEYS = 100_000
"""The oldest keys are forgotten beyond it."""


class DedupeWindow:
    """Remembers keys, each for its time to live."""

    __slots__ = ("_expiry",)

    def __init__(self) -> None:
        self._expiry: dict[str, float] = {}
        """In the order in which the keys were claimed."""

    def claim(self, key: str, ttl: float, now: float) -> bool:
        """Remember a key for `ttl` seconds from `now` (seconds, any clock); False when it is remembered already."""
        if self._expiry.get(key, now) > now:
            return False
        self._expiry.pop(key, None)
        self._forget(now)
        self._expiry[key] = now + ttl
        return True

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
