"""The wall clock, the machine's and the loop's, and which of them is current."""

from __future__ import annotations

import math
import os
import sys
import threading
import time

import anyio
import anyio.to_thread
import pytest

from definable.concurrency import clock as clock_module
from definable.concurrency.clock import MAX_SLEEP, STEP_CHECK, LoopClock, SystemClock, current_clock, use_clock
from definable.testing import VIRTUAL_BACKENDS, run


def test_the_machines_clock_is_the_default() -> None:
    assert isinstance(current_clock(), SystemClock)
    assert abs(current_clock().now() - time.time()) < 1


def test_use_clock_installs_and_restores() -> None:
    outer, inner = LoopClock(1.0, lambda: 0.0), LoopClock(2.0, lambda: 0.0)
    with use_clock(outer):
        with use_clock(inner):
            assert current_clock() is inner
        assert current_clock() is outer
    assert isinstance(current_clock(), SystemClock)


def test_another_thread_has_the_machines_clock() -> None:
    seen: list[object] = []
    with use_clock(LoopClock(1.0, lambda: 0.0)):
        thread = threading.Thread(target=lambda: seen.append(current_clock()))
        thread.start()
        thread.join()
    assert isinstance(seen[0], SystemClock)


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_tasks_and_worker_threads_inherit_the_clock(backend: str) -> None:
    async def main() -> None:
        seen: list[object] = []

        async def child() -> None:
            seen.append(current_clock())

        clock = LoopClock(5.0)
        with use_clock(clock):
            async with anyio.create_task_group() as tg:
                tg.start_soon(child)
            seen.append(await anyio.to_thread.run_sync(current_clock))
        assert seen == [clock, clock]

    run(main, backend=backend)


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_loop_clock_goes_with_the_loop(backend: str) -> None:
    async def main() -> None:
        clock = LoopClock(1000.0)
        await anyio.sleep(5)
        assert clock.now() == 1005.0
        await clock.sleep_until(1600.5)
        assert clock.now() == 1600.5
        await clock.sleep_until(0.0)
        assert clock.now() == 1600.5

    run(main, backend=backend)


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@pytest.mark.parametrize(("has_timer", "longest"), [(True, MAX_SLEEP), (False, STEP_CHECK)])
def test_system_clock_looks_at_the_time_now_and_then(
    backend: str, has_timer: bool, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_timer:
        monkeypatch.setattr(clock_module, "_open_timer", lambda when: None)
    elif sys.platform != "linux":
        pytest.skip("has no timerfd")

    async def main() -> None:
        began, clock = anyio.current_time(), SystemClock()
        await clock.sleep_until(clock.now() + 86400)
        assert anyio.current_time() - began == longest
        await clock.sleep_until(clock.now() - 10)
        assert anyio.current_time() - began == longest

    run(main, backend=backend)


@pytest.mark.skipif(sys.platform != "linux", reason="has no timerfd")
@pytest.mark.anyio
async def test_the_kernels_timer_ends_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "STEP_CHECK", 0.0)
    monkeypatch.setattr(clock_module, "MAX_SLEEP", math.inf)
    clock = SystemClock()
    when = clock.now() + 0.1
    with anyio.fail_after(30):
        await clock.sleep_until(when)
    assert clock.now() >= when - 0.001


@pytest.mark.skipif(sys.platform != "linux", reason="has no timerfd")
@pytest.mark.anyio
async def test_a_clock_that_is_set_ends_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    said, says = os.pipe()  # a test may not set the machine's clock: it says what the kernel would say
    monkeypatch.setattr(clock_module, "_open_timer", lambda when: said)
    monkeypatch.setattr(clock_module, "MAX_SLEEP", math.inf)
    clock = SystemClock()
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(clock.sleep_until, clock.now() + 86400)
                await anyio.wait_all_tasks_blocked()
                os.write(says, b".")
    finally:
        os.close(says)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(said)
