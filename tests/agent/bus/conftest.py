"""The buses that must all pass the contract."""

from __future__ import annotations

import pytest

from definable.agent.bus import EventBus, MemoryBus


@pytest.fixture(params=["memory"])
def bus(request: pytest.FixtureRequest) -> EventBus:
    """A bus that is not open yet."""
    return MemoryBus()
