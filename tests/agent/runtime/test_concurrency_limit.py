"""One trigger's limit: who is handled, who waits, who is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from definable.agent.runtime.concurrency_limit import Admission, ConcurrencyLimit
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
    ("trigger", "max_active", "skips"),
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
def test_a_trigger_says_its_limit(trigger: BaseTrigger, max_active: int | None, skips: bool) -> None:
    limit = ConcurrencyLimit.of(trigger, 10)
    assert (limit.max_active, limit.skip_when_busy) == (max_active, skips)


def test_without_a_limit_all_go_at_once() -> None:
    limit = ConcurrencyLimit.of(EventTrigger("x"), 1)
    assert [limit.admit(letter) for letter in (A, B, C)] == [Admission.ADMITTED] * 3
    assert [limit.release() for _ in range(3)] == [None] * 3
    assert limit.active == 0


def test_at_the_limit_they_are_queued_and_released_in_order() -> None:
    limit = ConcurrencyLimit.of(EventTrigger("x", max_concurrency=1), 10)
    assert [limit.admit(letter) for letter in (A, B, C)] == [Admission.ADMITTED, Admission.QUEUED, Admission.QUEUED]
    assert [limit.release(), limit.release(), limit.release()] == [B, C, None]
    assert limit.active == 0
    assert limit.admit(D) is Admission.ADMITTED


def test_a_busy_trigger_may_skip() -> None:
    limit = ConcurrencyLimit.of(Cron("* * * * *"), 10)
    assert [limit.admit(A), limit.admit(B)] == [Admission.ADMITTED, Admission.SKIPPED]
    assert limit.release() is None
    assert limit.admit(C) is Admission.ADMITTED


def test_a_retry_is_not_skipped_but_waits() -> None:
    limit = ConcurrencyLimit.of(Cron("* * * * *"), 10)
    retry = Letter("retry", attempt=2)
    assert [limit.admit(A), limit.admit(retry)] == [Admission.ADMITTED, Admission.QUEUED]
    assert limit.release() is retry


def test_a_full_queue_takes_only_those_who_must_not_wait() -> None:
    limit = ConcurrencyLimit.of(EventTrigger("x", max_concurrency=1), 1)
    assert [limit.admit(A), limit.admit(B), limit.admit(C)] == [Admission.ADMITTED, Admission.QUEUED, Admission.FULL]
    assert limit.admit(C, over_limit=True) is Admission.QUEUED
    assert [limit.release(), limit.release()] == [B, C]


@pytest.mark.anyio
async def test_capacity_comes_when_one_is_released() -> None:
    limit = ConcurrencyLimit.of(EventTrigger("x", max_concurrency=1), 1)
    limit.admit(A)
    limit.admit(B)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(limit.capacity)
            group.start_soon(limit.capacity)
            await anyio.wait_all_tasks_blocked()
            limit.release()
    assert limit.admit(C) is Admission.QUEUED
