"""One trigger's lane: who is handled, who stands in line, who is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from definable.agent.runtime.concurrency_limit import Entry, lane_of
from definable.agent.trigger import BaseTrigger, Cron, EventTrigger, Webhook


@dataclass
class Letter:
    """A delivery that nobody settles."""

    id: str
    attempt: int = 1
    name: str = "test"
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])

    async def ack(self) -> None: ...

    async def nack(self, delay: float = 0.0) -> None: ...

    async def dead(self, why: str) -> None: ...


A, B, C, D = (Letter(name) for name in "abcd")


@pytest.mark.parametrize(
    ("trigger", "limit", "skips"),
    [
        (EventTrigger("x"), None, False),
        (EventTrigger("x", max_concurrency=3), 3, False),
        (Webhook("/x", max_concurrency=2), 2, False),
        (Cron("* * * * *"), 1, True),
        (Cron("* * * * *", overlap="queue"), 1, False),
        (Cron("* * * * *", overlap="allow"), None, False),
        (Cron("* * * * *", overlap="allow", max_concurrency=4), 4, False),
    ],
)
def test_a_trigger_says_what_its_lane_is_like(trigger: BaseTrigger, limit: int | None, skips: bool) -> None:
    lane = lane_of(trigger, 10)
    assert (lane.limit, lane.skip_when_busy) == (limit, skips)


def test_without_a_limit_all_go_at_once() -> None:
    lane = lane_of(EventTrigger("x"), 1)
    assert [lane.enter(letter) for letter in (A, B, C)] == [Entry.GO] * 3
    assert [lane.leave() for _ in range(3)] == [None] * 3
    assert lane.active == 0


def test_at_the_limit_they_stand_in_line_and_go_in_order() -> None:
    lane = lane_of(EventTrigger("x", max_concurrency=1), 10)
    assert [lane.enter(letter) for letter in (A, B, C)] == [Entry.GO, Entry.PARKED, Entry.PARKED]
    assert [lane.leave(), lane.leave(), lane.leave()] == [B, C, None]
    assert lane.active == 0
    assert lane.enter(D) is Entry.GO


def test_a_busy_lane_may_skip() -> None:
    lane = lane_of(Cron("* * * * *"), 10)
    assert [lane.enter(A), lane.enter(B)] == [Entry.GO, Entry.SKIPPED]
    assert lane.leave() is None
    assert lane.enter(C) is Entry.GO


def test_a_retry_is_not_skipped_but_waits() -> None:
    lane = lane_of(Cron("* * * * *"), 10)
    retry = Letter("retry", attempt=2)
    assert [lane.enter(A), lane.enter(retry)] == [Entry.GO, Entry.PARKED]
    assert lane.leave() is retry


def test_a_full_line_takes_only_those_who_must_not_wait() -> None:
    lane = lane_of(EventTrigger("x", max_concurrency=1), 1)
    assert [lane.enter(A), lane.enter(B), lane.enter(C)] == [Entry.GO, Entry.PARKED, Entry.FULL]
    assert lane.enter(C, over_limit=True) is Entry.PARKED
    assert [lane.leave(), lane.leave()] == [B, C]


@pytest.mark.anyio
async def test_room_comes_when_one_leaves() -> None:
    lane = lane_of(EventTrigger("x", max_concurrency=1), 1)
    lane.enter(A)
    lane.enter(B)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(lane.wait_for_room)
            group.start_soon(lane.wait_for_room)
            await anyio.wait_all_tasks_blocked()
            lane.leave()
    assert lane.enter(C) is Entry.PARKED
