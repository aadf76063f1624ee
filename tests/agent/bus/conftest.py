"""The buses that must all pass the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from definable.agent.bus import EventBus, MemoryBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.bus.queue import QueueBus


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a bus may have its file."""
    return tmp_path / "events.db"


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def bus(request: pytest.FixtureRequest, path: Path) -> EventBus:
    """A bus that is not open yet."""
    if request.param == "redis":
        return RedisBus(request.getfixturevalue("redis").url)
    if request.param == "postgres":
        return PostgresBus(request.getfixturevalue("postgres"))
    return MemoryBus() if request.param == "memory" else SQLiteBus(path)


@pytest.fixture(params=["redis", "postgres"])
def replicas(request: pytest.FixtureRequest) -> Sequence[QueueBus]:
    """Buses of one kind at one server, not open yet."""
    if request.param == "redis":
        return [RedisBus(request.getfixturevalue("redis").url) for _ in range(3)]
    return [PostgresBus(request.getfixturevalue("postgres")) for _ in range(3)]
