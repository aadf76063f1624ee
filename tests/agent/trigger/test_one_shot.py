"""Once: at an instant, or after the start."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from definable.agent.trigger import OneShot
from definable.errors import ConfigurationError

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "at", [NOON, NOON.timestamp(), "2026-06-01T14:00:00+02:00", NOON.astimezone(timezone(timedelta(hours=-3)))]
)
def test_an_instant_can_be_said_in_three_ways(at: Any) -> None:
    trigger = OneShot(at)
    assert trigger.at == NOON.timestamp()
    assert trigger.source == trigger.name == "oneshot(2026-06-01T12:00:00+00:00)"
    assert trigger.when == "at 2026-06-01 12:00:00 UTC"


def test_it_comes_once() -> None:
    trigger = OneShot(100.0)
    assert trigger.upcoming(3, after=0.0) == [100.0]
    assert trigger.next_after(100.0) == math.inf
    assert trigger.missed(0.0, 200.0) == (1, 100.0)
    assert trigger.missed(100.0, 200.0) == (0, None)
    assert trigger.first_after(now=130.0, began=130.0) == 100.0


def test_a_delay_counts_from_the_start() -> None:
    trigger = OneShot(delay=60)
    assert (trigger.source, trigger.when, trigger.upcoming(1, 0.0)) == ("oneshot(+60s)", "60 s after the start", [])
    assert trigger.first_after(now=1000.0, began=900.0) == 960.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "at=..., or seconds after the start, delay="),
        ({"at": 1.0, "delay": 1}, "at=..., or seconds after the start, delay="),
        ({"at": "2026-06-01T12:00:00"}, "no offset from UTC"),
        ({"at": datetime(2026, 6, 1)}, "no offset from UTC"),
        ({"at": "noon"}, "ISO 8601 such as"),
        ({"at": [1]}, "ISO 8601 such as"),
        ({"at": math.nan}, "finite"),
        ({"delay": -1}, "OneShot(delay=-1)"),
        ({"delay": math.inf}, "OneShot(delay=inf)"),
        ({"delay": 1, "misfire_grace": math.inf}, "misfire_grace=inf"),
    ],
)
def test_what_names_no_instant_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        OneShot(**arguments)
    assert says in str(refused.value)
