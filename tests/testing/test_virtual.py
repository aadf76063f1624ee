"""Virtual time on both backends: jumps, threads, I/O, the wall clock and pytest."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from definable.concurrency.clock import SystemClock, current_clock
from definable.errors import ConfigurationError
from definable.testing import VIRTUAL_BACKENDS, run, virtual_clock, virtual_time
from definable.testing.virtual import Start

START = "2026-03-29T00:00:00+00:00"
NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param, start=START) as backend:
        yield backend


pytestmark = pytest.mark.anyio


async def test_a_day_of_sleep_passes_at_once() -> None:
    began = time.perf_counter()
    await anyio.sleep(86400)
    assert anyio.current_time() == 86400
    assert current_clock().now() == datetime.fromisoformat("2026-03-30T00:00:00+00:00").timestamp()
    assert time.perf_counter() - began < 5


async def test_each_test_begins_at_the_start() -> None:
    assert anyio.current_time() == 0
    assert current_clock().now() == datetime.fromisoformat(START).timestamp()


async def test_deadlines_come_in_order() -> None:
    came: list[float] = []

    async def sleeper(seconds: float) -> None:
        await anyio.sleep(seconds)
        came.append(anyio.current_time())

    async with anyio.create_task_group() as tg:
        for seconds in (30.0, 10.0, 20.5, 0.0, 1e-6):
            tg.start_soon(sleeper, seconds)
    assert came == [0.0, pytest.approx(1e-6), 10.0, 20.5, 30.0]


async def test_a_timeout_expires() -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(3600):
        await anyio.Event().wait()
    assert anyio.current_time() == 3600


async def test_many_months_of_timers_do_not_stall() -> None:
    for _ in range(30_000):
        await anyio.sleep(3600.1)
    assert anyio.current_time() == pytest.approx(30_000 * 3600.1)


async def test_a_worker_thread_takes_no_virtual_time() -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep, 1000)
        for limiter in (None, anyio.CapacityLimiter(1)):
            with anyio.fail_after(1):
                await anyio.to_thread.run_sync(time.sleep, 0.03, limiter=limiter)
            assert anyio.current_time() == 0
        await anyio.sleep(5)
        assert anyio.current_time() == 5
    assert anyio.current_time() == 1000


async def test_many_worker_threads_take_no_virtual_time() -> None:
    async with anyio.create_task_group() as tg, anyio.create_task_group() as threads:
        tg.start_soon(anyio.sleep, 1)
        for _ in range(200):
            threads.start_soon(anyio.to_thread.run_sync, time.sleep, 0.001)
        threads.start_soon(anyio.to_thread.run_sync, anyio.from_thread.run, anyio.lowlevel.checkpoint)
    assert anyio.current_time() == 1


async def test_name_lookup_takes_no_virtual_time() -> None:
    with anyio.fail_after(1):
        await anyio.getaddrinfo("127.0.0.1", 80)
    assert anyio.current_time() == 0


async def test_data_on_the_loopback_comes_before_a_jump() -> None:
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, echo)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.fail_after(60):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"ping")
                assert await stream.receive() == b"ping"
        tg.cancel_scope.cancel()


async def test_the_wall_clock_steps_while_the_loops_clock_goes_on() -> None:
    clock = virtual_clock()
    began = clock.now()
    await anyio.sleep(10)
    clock.step(-3600)
    assert (clock.now() - began, anyio.current_time()) == (-3590, 10)


async def test_a_step_wakes_who_sleeps_by_the_wall_clock() -> None:
    clock = virtual_clock()
    async with anyio.create_task_group() as tg:
        tg.start_soon(clock.sleep_until, clock.now() + 1000)
        await anyio.sleep(10)
        clock.step(500)
    assert anyio.current_time() == 10


async def test_the_wall_clock_reads_in_a_worker_thread() -> None:
    await anyio.sleep(10)
    assert await anyio.to_thread.run_sync(lambda: current_clock().now()) == current_clock().now()


class TestRun:
    """`run`, from sync code: no backend of the plugin's around it."""

    pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

    @pytest.mark.parametrize("start", [NOON, NOON.isoformat(), "2026-03-29T12:00:00Z", NOON.timestamp()])
    def test_takes_a_start_in_any_form_and_returns_the_result(self, backend: str, start: Start) -> None:
        async def two_hours_later(hours: int) -> float:
            await anyio.sleep(hours * 3600)
            return current_clock().now()

        assert run(two_hours_later, 2, backend=backend, start=start) == NOON.timestamp() + 7200

    def test_leaves_the_machines_clock_in_place_and_nothing_open(self, backend: str) -> None:
        run(anyio.sleep, 1, backend=backend)
        gc.collect()
        assert isinstance(current_clock(), SystemClock)
        with pytest.raises(RuntimeError, match="no virtual clock"):
            virtual_clock()

    def test_refuses_a_start_without_an_offset(self, backend: str) -> None:
        with pytest.raises(ConfigurationError, match="no offset"):
            run(anyio.sleep, 1, backend=backend, start="2026-03-29T12:00:00")


def test_refuses_another_backend() -> None:
    with pytest.raises(ConfigurationError, match="'asyncio' or 'trio'"):
        run(anyio.sleep, 1, backend="curio")


def test_a_backend_that_is_never_run_leaves_nothing_open() -> None:
    with virtual_time("asyncio"), virtual_time("trio"):
        pass
    gc.collect()
