"""The buses that must all pass the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback.redis import has_redis, own_redis, redis, shared_redis

from definable.agent.bus import EventBus, MemoryBus, RedisBus, SQLiteBus

__all__ = ["bus", "has_redis", "own_redis", "path", "redis", "shared_redis"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a bus may have its file."""
    return tmp_path / "events.db"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def bus(request: pytest.FixtureRequest, path: Path) -> EventBus:
    """A bus that is not open yet."""
    if request.param == "redis":
        return RedisBus(request.getfixturevalue("redis").url)
    return MemoryBus() if request.param == "memory" else SQLiteBus(path)
