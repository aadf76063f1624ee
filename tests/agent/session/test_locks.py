"""Locks of sessions: in order, one at a time, passed on by whoever leaves, also between event loops."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from definable.agent.session.locks import SessionLocks

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Visitor:
    """Somebody who takes a turn and stays until told to leave."""

    session_id: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    leave: anyio.Event = field(default_factory=anyio.Event)


async def settle() -> None:
    """Until everybody stands where they will: a turn that is passed on takes a few steps of the event loop."""
    for _ in range(20):
        await checkpoint()


class House:
    """Locks, and who holds them: two at once in one session fail the test."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.locks = SessionLocks()
        self.inside: dict[str, Visitor] = {}
        self.entered: list[Visitor] = []
        self._tasks = tasks

    async def arrive(self, session_id: str) -> Visitor:
        visitor = Visitor(session_id)
        self._tasks.start_soon(self._visit, visitor)
        await settle()
        return visitor

    async def _visit(self, visitor: Visitor) -> None:
        with visitor.scope:
            async with self.locks.lock(visitor.session_id):
                assert visitor.session_id not in self.inside
                self.inside[visitor.session_id] = visitor
                self.entered.append(visitor)
                try:
                    await visitor.leave.wait()
                finally:
                    del self.inside[visitor.session_id]


async def test_turns_come_in_arrival_order() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            house = House(tasks)
            visitors = [await house.arrive("s") for _ in range(20)]
            for visitor in visitors:
                assert house.inside == {"s": visitor}
                visitor.leave.set()
                await settle()
            assert house.entered == visitors
            assert len(house.locks) == 0


async def test_sessions_do_not_wait_on_each_other() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            house = House(tasks)
            visitors = {name: await house.arrive(name) for name in ("a", "b", "")}
            assert house.inside == visitors
            for visitor in visitors.values():
                visitor.leave.set()
        assert len(house.locks) == 0


async def test_an_error_inside_passes_the_turn_on() -> None:
    locks = SessionLocks()
    with pytest.raises(LookupError):
        async with locks.lock("s"):
            raise LookupError
    with anyio.fail_after(1):
        async with locks.lock("s"):
            pass
    assert len(locks) == 0


async def test_who_is_cancelled_just_as_the_turn_comes_passes_it_on() -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            house = House(tasks)
            first, second, third = [await house.arrive("s") for _ in range(3)]
            first.leave.set()
            while first in house.inside.values():
                await checkpoint()
            second.scope.cancel()
            await settle()
            assert house.inside == {"s": third}
            third.leave.set()
        assert len(house.locks) == 0


async def test_ten_thousand_waiters_may_leave_at_once() -> None:
    with anyio.fail_after(30):
        locks = SessionLocks()
        async with locks.lock("s"), anyio.create_task_group() as tasks:

            async def wait() -> None:
                async with locks.lock("s"):
                    raise AssertionError("not this one's turn")

            for _ in range(10_000):
                tasks.start_soon(wait)
            await settle()
            tasks.cancel_scope.cancel()
        assert len(locks) == 0


Action = tuple[str, int]

BURSTS = st.lists(
    st.lists(st.tuples(st.sampled_from(["arrive", "arrive", "leave", "cancel"]), st.integers(0, 50)), max_size=6),
    max_size=12,
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(deadline=None, max_examples=60)
@given(bursts=BURSTS)
def test_whatever_happens_the_first_of_the_line_is_inside(backend: str, bursts: list[list[Action]]) -> None:
    anyio.run(play, bursts, backend=backend)


async def play(bursts: list[list[Action]]) -> None:
    """Against a model: a list for each session, whose first is inside. What is in one burst happens at once."""
    lines: dict[str, list[Visitor]] = {"a": [], "b": [], "c": []}
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            house = House(tasks)
            for burst in bursts:
                for action, number in burst:
                    await act(house, lines, action, number)
                await settle()
                heads = {name: line[0] for name, line in lines.items() if line}
                assert house.inside == heads
                assert len(house.locks) == len(heads)
            tasks.cancel_scope.cancel()
        assert len(house.locks) == 0


async def act(house: House, lines: dict[str, list[Visitor]], action: str, number: int) -> None:
    present = [visitor for line in lines.values() for visitor in line]
    if action == "arrive":
        session_id = "abc"[number % 3]
        lines[session_id].append(await house.arrive(session_id))
    elif present:
        heads = [line[0] for line in lines.values() if line]
        chosen = present if action == "cancel" else heads
        visitor = chosen[number % len(chosen)]
        lines[visitor.session_id].remove(visitor)
        visitor.scope.cancel() if action == "cancel" else visitor.leave.set()


class Crowd:
    """Visitors from many event loops, some of whom are cancelled at random moments."""

    def __init__(self) -> None:
        self.locks = SessionLocks()
        self.inside = Counter[str]()
        self.entries = 0

    async def visit(self, dice: random.Random) -> None:
        session_id = dice.choice("abc")
        with anyio.CancelScope() as scope:
            if dice.random() < 0.1:
                scope.cancel()
            async with self.locks.lock(session_id):
                self.inside[session_id] += 1
                self.entries += 1
                assert self.inside[session_id] == 1
                for _ in range(dice.randrange(3)):
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                self.inside[session_id] -= 1

    async def come(self, seed: int) -> None:
        dice = random.Random(seed)
        with anyio.fail_after(30):
            for _ in range(15):
                async with anyio.create_task_group() as tasks:
                    for _ in range(20):
                        tasks.start_soon(self.visit, dice)
                    if dice.random() < 0.2:
                        await checkpoint()
                        tasks.cancel_scope.cancel()


def test_event_loops_of_both_backends_share_the_turns() -> None:
    crowd = Crowd()
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            anyio.run(crowd.come, seed, backend=("asyncio", "trio")[seed % 2])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=40)
    assert not failures
    assert crowd.entries > 1000
    assert not any(crowd.inside.values())
    assert len(crowd.locks) == 0


async def test_a_waiter_whose_event_loop_is_gone_is_passed_over() -> None:
    locks = SessionLocks()

    async def wait() -> None:
        async with locks.lock("s"):
            raise AssertionError("not this one's turn")

    def abandon() -> list[object]:
        loop = asyncio.new_event_loop()
        coroutine = wait()
        task = loop.create_task(coroutine)
        for _ in range(3):
            loop.call_soon(loop.stop)
            loop.run_forever()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        return [coroutine]

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            house = House(tasks)
            house.locks = locks
            first = await house.arrive("s")
            abandoned = await anyio.to_thread.run_sync(abandon)
            third = await house.arrive("s")
            first.leave.set()
            await settle()
            assert house.inside == {"s": third}
            third.leave.set()
    assert len(locks) == 0
    del abandoned


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_asyncios_own_cancellation_passes_the_turn_on(moment: int) -> None:
    async def scenario() -> None:
        locks = SessionLocks()

        async def take() -> None:
            async with locks.lock("s"):
                await asyncio.sleep(0)

        async with locks.lock("s"):
            tasks = [asyncio.create_task(take()) for _ in range(2)]
            await asyncio.sleep(0)
        for _ in range(moment):
            await asyncio.sleep(0)
        tasks[0].cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[1].exception() is None
        assert len(locks) == 0

    asyncio.run(scenario())
