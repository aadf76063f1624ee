"""Rate limits that replicas share in Redis: one key a caller, which expires when everything is paid for."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from definable.concurrency.logs import logger_named
from definable.concurrency.rate_limits import Limits, MemoryLimits, Rate
from definable.errors import StorageError

from .redis_address import RedisAddress, integer
from .redis_link import RedisLink, Script, linked

logger: logging.Logger = logger_named(__name__)

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


class RedisLimits:
    """Limits at a Redis; of this process alone while it is away.

    Args:
        link: The connection.
        prefix: What the keys begin with.
    """

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix
        self._local = MemoryLimits()
        self._is_away = False

    async def take(self, key: str, rate: Rate) -> float:
        """Count a call, unless it comes too early; the seconds after which it may come again."""
        times = [round(rate.interval * 1e6), round(rate.period * 1e6)]
        try:
            early = await self._link.script(TAKE, [f"{self._prefix}:limit:{key}"], times)
        except StorageError as error:
            if not self._is_away:
                logger.warning("rate limits are of this process alone until Redis is back: %s", error)
            self._is_away = True
            return await self._local.take(key, rate)
        self._is_away = False
        return early / 1e6


@asynccontextmanager
async def redis_limits(address: RedisAddress, prefix: str) -> AsyncGenerator[Limits, None]:
    """Limits at a Redis, while the context is open; the arguments are `RedisLimits`'s.

    Raises:
        StorageError: It cannot be reached.
    """
    async with linked(address, (TAKE,), timeout=TIMEOUT) as link:
        yield RedisLimits(link, prefix)
