"""The soak in short, and what it makes of what it saw. A whole one: `python -m tests.soak`."""

from __future__ import annotations

import random
import sys

import anyio
import pytest
from soak import Sample, Soak, rise, table, trends, verdict

SECONDS = 12.0

MIX = 50.0
"""Requests a second."""


def flat(number: int, chance: random.Random) -> Sample:
    return Sample(
        memory=80 + chance.gauss(0, 1),
        descriptors=20 + chance.randrange(3),
        tasks=120 + chance.randrange(-5, 5),
        threads=6 + chance.randrange(2),
        latency=5 + abs(chance.gauss(0, 3)),
    )


def risen(sample: Sample, name: str, by: float) -> Sample:
    values = {field: getattr(sample, field) for field in Sample.__dataclass_fields__}
    return Sample(**(values | {name: values[name] + by}))


def overrun(samples: list[Sample]) -> set[str]:
    return {name for name, (_, up, limit) in trends(samples).items() if up > limit}


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_trend(seed: int) -> None:
    chance = random.Random(seed)
    assert overrun([flat(number, chance) for number in range(60)]) == set()


@pytest.mark.parametrize(
    ("name", "by"), [("memory", 30), ("descriptors", 12), ("tasks", 40), ("threads", 10), ("latency", 120)]
)
def test_a_leak_is_a_trend(name: str, by: float) -> None:
    chance = random.Random(1)
    samples = [risen(flat(number, chance), name, by * number / 60) for number in range(60)]
    assert overrun(samples) == {name}


def test_what_fills_at_first_is_no_trend() -> None:
    chance = random.Random(1)
    samples = [risen(flat(number, chance), "memory", min(number, 10) * 5) for number in range(60)]
    assert overrun(samples) == set()


def test_a_line_through_one_sample_does_not_rise() -> None:
    assert rise([3.0]) == 0.0


@pytest.mark.timeout(90)
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_short_soak_finds_no_trend(backend: str) -> None:
    soak = Soak(backend, SECONDS, MIX)
    anyio.run(soak.run)
    sys.stdout.write(table(soak.samples))
    assert verdict(soak) == []
    assert soak.requests > SECONDS
