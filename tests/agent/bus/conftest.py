"""The buses that must all pass the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from definable.agent.bus import EventBus, MemoryBus, SQLiteBus


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a bus may have its file."""
    return tmp_path / "events.db"


@pytest.fixture(params=["memory", "sqlite"])
def bus(request: pytest.FixtureRequest, path: Path) -> EventBus:
    """A bus that is not open yet."""
    return MemoryBus() if request.param == "memory" else SQLiteBus(path)
