"""Rate limits that replicas share in Redis: one key a caller, which expires when everything is paid for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from definable.concurrency.rate_limits import Limits, LocalWhileAway, Rate, caller_digest

from .redis_address import RedisAddress, integer
from .redis_link import RedisLink, Script, linked

TIMEOUT = 5.0
"""Seconds for Redis to answer; a request waits for it."""

TAKE = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local due = math.max(tonumber(redis.call('GET', KEYS[1])) or now, now) + interval
local early = due - now - period
if early > 0 then return early end
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
return 0
""",
    integer,
)
"""Args: microseconds from one call to the next, and of the period. Returns: microseconds to wait, 0 when it counts.

By the clock of Redis, so that those of the replicas do not matter.
"""


class RedisLimits(Limits):
    """Limits at a Redis.

    Args:
        link: The connection.
        prefix: What the keys begin with.
    """

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix

    async def take(self, key: str, rate: Rate) -> float:
        """As of `Limits`.

        Raises:
            StorageError: Redis is away.
        """
        times = [round(rate.interval * 1e6), round(rate.period * 1e6)]
        return await self._link.script(TAKE, [f"{self._prefix}:limit:{caller_digest(key).hex()}"], times) / 1e6


@asynccontextmanager
async def redis_limits(address: RedisAddress, prefix: str) -> AsyncGenerator[Limits, None]:
    """Limits at a Redis, while the context is open.

    Args:
        address: Where it is.
        prefix: What the keys begin with.

    Raises:
        StorageError: It cannot be reached.
    """
    async with linked(address, (TAKE,), timeout=TIMEOUT) as link:
        yield LocalWhileAway(RedisLimits(link, prefix), "Redis")
