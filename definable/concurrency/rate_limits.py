"""How often a caller may call: the rates that users write, and who has how much of them left. `MemoryLimits` is pure.

Generic cell rate algorithm: a rate of 60 a minute lets 60 calls through at once, and then one a second. What is kept of
a caller is one time: when its calls so far will have been paid for.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol, runtime_checkable

import anyio

from definable.errors import ConfigurationError, StorageError

from .logs import logger_named

logger: logging.Logger = logger_named(__name__)

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}

WRITTEN = re.compile(r"\s*([1-9][0-9]{0,8})\s*/\s*(second|minute|hour|day)\s*")

MAX_KEYS = 100_000
"""Callers that are remembered; beyond it the one who has been silent longest is forgotten."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls in a period."""

    count: int
    period: float
    """Seconds."""

    @property
    def interval(self) -> float:
        """Seconds from one call to the next, after a burst."""
        return self.period / self.count

    def after(self, paid_until: float, now: float) -> tuple[float, float]:
        """What a call changes.

        Args:
            paid_until: When the calls so far will have been paid for, in seconds of any clock that never goes back.
            now: The same clock's.

        Returns:
            That time with this call, and 0; or the same time and the seconds after which the call may come again.
        """
        due = max(paid_until, now) + self.interval
        early = due - now - self.period
        return (due, 0.0) if early <= 1e-9 * self.period else (paid_until, early)


def rate_of(written: object, argument: str = "rate_limit") -> Rate:
    """A rate as users write it: `"60/minute"`.

    Args:
        written: The rate.
        argument: Its name, for the error.

    Raises:
        ConfigurationError: It is none.
    """
    found = WRITTEN.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        raise ConfigurationError(f"{argument}={written!r}: such as '60/minute'; per second, minute, hour or day")
    return Rate(int(found[1]), SECONDS[found[2]])


class Limits(Protocol):
    """Who has how much left: of one process, or shared by replicas."""

    async def take(self, key: str, rate: Rate) -> float:
        """Count a call, unless it comes too early.

        Args:
            key: The caller.
            rate: Its rate.

        Returns:
            0, or the seconds after which it may come again; it does not count then.
        """
        ...


@runtime_checkable
class SharesLimits(Protocol):
    """A bus or a session store at whose server the replicas of a service can share their limits."""

    def rate_limits(self) -> AbstractAsyncContextManager[Limits]:
        """The shared limits, while the context is open."""
        ...


class MemoryLimits(Limits):
    """Of one process, in bounded memory.

    Args:
        max_keys: Callers that are remembered.
    """

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._paid_until: OrderedDict[str, float] = OrderedDict()
        """By caller, in the order of their last calls."""

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._paid_until)

    async def take(self, key: str, rate: Rate) -> float:
        """As of `Limits`."""
        return self.taken(key, rate, anyio.current_time())

    def taken(self, key: str, rate: Rate, now: float) -> float:
        """The same at a moment, in seconds of a clock that never goes back."""
        known = self._paid_until
        known[key], early = rate.after(known.get(key, now), now)
        known.move_to_end(key)
        self._forget(now)
        return early

    def learn(self, key: str, rate: Rate, early: float, now: float) -> None:
        """Remember what others who know more answered to a call: that it counts, or how much it came too early."""
        if not early:
            self.taken(key, rate, now)
            return
        self._paid_until[key] = now + early + rate.period - rate.interval
        self._paid_until.move_to_end(key)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Forget the oldest, two a call: who has paid for everything, and the others where there are too many."""
        known = self._paid_until
        for _ in range(2):
            oldest = next(iter(known))
            if known[oldest] > now and len(known) <= self._max_keys:
                return
            del known[oldest]
            if not known:
                return


def caller_digest(key: str) -> bytes:
    """What a server knows a caller by, whose name may be any text, of any length: 16 bytes."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class LocalWhileAway(Limits):
    """Limits that a server keeps for all replicas; of this process alone while it is away.

    Args:
        shared: The limits; their `take` raises `StorageError` while the server is away.
        server: What it is, for the log.
    """

    def __init__(self, shared: Limits, server: str) -> None:
        self._shared = shared
        self._server = server
        self._local = MemoryLimits()
        self._is_away = False

    async def take(self, key: str, rate: Rate) -> float:
        """As of `Limits`."""
        try:
            early = await self._shared.take(key, rate)
        except StorageError as error:
            if not self._is_away:
                logger.warning("rate limits are of this process alone until %s is back: %s", self._server, error)
            self._is_away = True
            return await self._local.take(key, rate)
        self._is_away = False
        # Else everybody would begin anew each time that the server is slow to answer, those at their limit too.
        self._local.learn(key, rate, early, anyio.current_time())
        return early
