"""`max_concurrency` and `overlap` hold over all processes that share a bus, whichever of them dies or stops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import Delivery, EventBus, PostgresBus, RedisBus
from definable.agent.bus.claims import QueueDelivery
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent

pytestmark = pytest.mark.anyio

LIMIT = 40.0
"""Seconds that a test may hang."""

LEASE = 1.0
"""Seconds."""

NEVER = "0 0 1 1 *"
"""Fired by hand here."""


NewBus = Callable[..., Any]
"""Makes a bus on the server of the test; `lease=` in seconds."""


@pytest.fixture(params=["redis", "postgres"])
def new_bus(request: pytest.FixtureRequest) -> NewBus:
    server = request.getfixturevalue(request.param)
    if request.param == "redis":
        return lambda **options: RedisBus(server.url, **options)
    return lambda **options: PostgresBus(server, **options)


async def waiting_in(bus: EventBus | None) -> int:
    assert isinstance(bus, RedisBus | PostgresBus)
    return (await bus.backlog()).waiting


async def slot_is_free(bus: EventBus | None) -> None:
    """What this process held is settled, and the server knows."""
    assert isinstance(bus, RedisBus | PostgresBus) and bus._queue is not None
    claims = bus._queue.claims
    await eventually(lambda: not claims.held)
    await bus.dead_letters()  # waits until all is written


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


async def next_of(deliveries: AsyncIterator[Delivery]) -> QueueDelivery:
    with anyio.fail_after(LIMIT):
        delivery = await anext(deliveries)
    assert isinstance(delivery, QueueDelivery)
    return delivery


class Replicas:
    """Agents that are alike, on one server; what their handlers do is counted together."""

    def __init__(self, new_bus: NewBus, count: int, make_trigger: Callable[[], Any]) -> None:
        self.triggers = [make_trigger() for _ in range(count)]
        self.agents = [Agent("offline", bus=new_bus()) for _ in range(count)]
        self.active = self.peak = self.failures = 0
        self.done: list[int] = []
        self.by_replica = [0] * count
        self.may_end = anyio.Event()
        for number, (agent, trigger) in enumerate(zip(self.agents, self.triggers, strict=True)):
            agent.on(trigger)(self.handler(number))

    def handler(self, replica: int) -> Callable[[TriggerEvent], Any]:
        async def work(event: TriggerEvent) -> None:
            self.active += 1
            self.peak = max(self.peak, self.active)
            try:
                if self.failures:
                    self.failures -= 1
                    raise RuntimeError("no luck")
                await anyio.sleep(0.01)
                await self.may_end.wait()
            finally:
                self.active -= 1
            self.by_replica[replica] += 1
            self.done.append(event.attempt)

        work.__qualname__ = "work"  # the replicas' triggers are one
        return work

    async def fire(self, replica: int) -> None:
        runtime = self.agents[replica].runtime
        assert runtime is not None
        await runtime.fire(self.triggers[replica])

    @property
    def skipped(self) -> int:
        return sum(agent.runtime.workers.skipped for agent in self.agents if agent.runtime is not None)

    async def __aenter__(self) -> Replicas:
        self._stack = AsyncExitStack()
        for agent in self.agents:
            await self._stack.enter_async_context(agent.running(enable_server=False))
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.may_end.set()
        await self._stack.__aexit__(*error)


async def test_no_more_are_handled_at_once_than_the_trigger_says(new_bus: NewBus) -> None:
    async with Replicas(new_bus, 3, lambda: EventTrigger("job", max_concurrency=2)) as replicas:
        for n in range(40):
            await replicas.agents[n % 3].aemit("job", {"n": n})
        await eventually(lambda: replicas.active == 2)
        replicas.may_end.set()
        await eventually(lambda: len(replicas.done) == 40)
    assert (replicas.peak, set(replicas.done)) == (2, {1})


async def test_a_cron_job_is_skipped_while_another_replica_still_runs_it(new_bus: NewBus) -> None:
    async with Replicas(new_bus, 2, lambda: Cron(NEVER, overlap="skip")) as replicas:
        await replicas.fire(0)
        await eventually(lambda: replicas.active == 1)
        for number in range(6):
            await replicas.fire(number % 2)
        await eventually(lambda: replicas.skipped == 6)
        assert (replicas.active, replicas.done) == (1, [])
        replicas.may_end.set()
        await eventually(lambda: replicas.done == [1])
        await replicas.fire(1)
        await eventually(lambda: replicas.done == [1, 1])
    assert replicas.peak == 1


async def test_a_retry_that_was_promised_waits_where_a_firing_would_be_skipped(new_bus: NewBus) -> None:
    async with Replicas(new_bus, 2, lambda: Cron(NEVER, overlap="skip", retries=1)) as replicas:
        replicas.failures = 1
        await replicas.fire(0)
        await eventually(lambda: replicas.failures == 0)
        await slot_is_free(replicas.agents[0].bus)
        await replicas.fire(1)
        await eventually(lambda: replicas.active == 1)
        with anyio.fail_after(LIMIT):
            while await waiting_in(replicas.agents[0].bus) != 1:
                await anyio.sleep(0.01)
        assert replicas.skipped == 0
        replicas.may_end.set()
        await eventually(lambda: sorted(replicas.done) == [1, 2])
    assert (replicas.peak, replicas.skipped) == (1, 0)


async def test_cron_jobs_that_queue_run_one_after_the_other(new_bus: NewBus) -> None:
    async with Replicas(new_bus, 3, lambda: Cron(NEVER, overlap="queue")) as replicas:
        for number in range(12):
            await replicas.fire(number % 3)
        await eventually(lambda: replicas.active == 1)
        replicas.may_end.set()
        await eventually(lambda: len(replicas.done) == 12)
    assert (replicas.peak, replicas.skipped) == (1, 0)


@pytest.mark.parametrize("end", ["ack", "nack", "dead", "release"])
async def test_however_a_delivery_ends_another_process_may_begin_the_next(new_bus: NewBus, end: str) -> None:
    one, other = new_bus(), new_bus()
    async with one.open(), other.open(), one.consume() as deliveries, other.consume() as others:
        for bus in (one, other):
            bus.limit_name("job", 1, skip=False)
        await one.publish("job", {"n": 1})
        first = await next_of(deliveries)
        await other.publish("job", {"n": 2})
        with anyio.move_on_after(1.5):
            await anext(others)
            pytest.fail("two at once")
        ends: dict[str, Callable[[], Any]] = {"nack": lambda: first.nack(60), "dead": lambda: first.dead("no luck")}
        await ends.get(end, getattr(first, end))()
        second = await next_of(others)
        assert second.data["n"] in ((1, 2) if end == "release" else (2,))
        assert (second.attempt, second.is_surplus) == (1, False)
        await second.ack()


async def test_a_slot_of_a_process_that_died_comes_free_with_its_lease(new_bus: NewBus) -> None:
    dead, other = new_bus(lease=LEASE), new_bus(lease=LEASE)
    async with dead.open(), dead.consume() as deliveries:
        dead.limit_name("job", 1, skip=False)
        for n in range(2):
            await dead.publish("job", {"n": n})
        first = await next_of(deliveries)
        assert dead._queue is not None
        dead._queue.store.consumer.renew = anyio.sleep_forever  # type: ignore[attr-defined] - as a stuck process
        async with other.open(), other.consume() as others:
            other.limit_name("job", 1, skip=False)
            found = []
            for _ in range(2):
                delivery = await next_of(others)
                found.append((delivery.data["n"], delivery.attempt))
                await delivery.ack()
            assert sorted(found) == [(first.data["n"], 2), (1 - first.data["n"], 1)]


async def test_a_slot_is_held_as_long_as_the_handler_takes(new_bus: NewBus) -> None:
    one, other = new_bus(lease=LEASE), new_bus(lease=LEASE)
    async with one.open(), other.open(), one.consume() as deliveries, other.consume() as others:
        for bus in (one, other):
            bus.limit_name("job", 1, skip=True)
        await one.publish("job", {"n": 1})
        first = await next_of(deliveries)
        await anyio.sleep(3 * LEASE)
        await one.publish("job", {"n": 2})
        surplus = await next_of(others)
        assert (surplus.data, surplus.is_surplus) == ({"n": 2}, True)
        await surplus.ack()
        await first.ack()


async def test_a_stop_gives_slots_back_at_once(new_bus: NewBus) -> None:
    one, other = new_bus(lease=3600), new_bus(lease=3600)
    async with other.open(), other.consume() as others:
        async with one.open(), one.consume() as deliveries:
            for bus in (one, other):
                bus.limit_name("job", 1, skip=False)
            await one.publish("job", {"n": 1})
            await next_of(deliveries)
        delivery = await next_of(others)
        assert (delivery.data, delivery.attempt) == ({"n": 1}, 2)
        await delivery.ack()
