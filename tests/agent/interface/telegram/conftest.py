"""Virtual time: polls, pauses and rate limits cost nothing."""

from __future__ import annotations

import selectors
from collections.abc import Iterator
from typing import Any

import pytest
import trio.testing

from definable.testing import VIRTUAL_BACKENDS, virtual_time
from definable.testing.virtual import JumpingSelector

SETTLE = 0.003
"""Seconds of real time that data on its way between two sockets of this process may take before the clock jumps."""


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    if request.param == "trio":
        yield "trio", {"clock": trio.testing.MockClock(autojump_threshold=SETTLE)}
        return
    jump = JumpingSelector.select

    def settle_and_jump(selector: JumpingSelector, timeout: float | None = None) -> list[Any]:
        is_waiting = timeout is not None and timeout > 0
        return (is_waiting and selectors.DefaultSelector.select(selector, SETTLE)) or jump(selector, timeout)

    monkeypatch.setattr(JumpingSelector, "select", settle_and_jump)
    with virtual_time(request.param) as backend:
        yield backend
