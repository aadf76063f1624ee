"""The store in memory: how much it keeps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from definable.agent import Agent, RunContext
from definable.agent.session import MemorySessionStore, Session
from definable.errors import ConfigurationError
from definable.model import Message

pytestmark = pytest.mark.anyio


async def test_the_least_recently_used_session_is_forgotten() -> None:
    store = MemorySessionStore(max_sessions=2)
    await store.save(Session("a"))
    await store.save(Session("b"))
    await store.load("a")
    await store.save(Session("c"))
    assert await store.load("b") is None
    assert await store.load("a") is not None
    assert len(store) == 2


async def test_expired_sessions_take_no_room() -> None:
    now = 0.0
    store = MemorySessionStore(ttl=10, clock=lambda: now)
    for number in range(100):
        await store.save(Session(str(number)))
    now = 10.0
    assert len(store) == 0


@pytest.mark.parametrize("max_sessions", [0, -1])
def test_there_is_room_for_one_at_least(max_sessions: int) -> None:
    with pytest.raises(ConfigurationError, match="max_sessions"):
        MemorySessionStore(max_sessions)


async def test_sessions_are_bounded_in_bytes_and_the_least_recently_used_are_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemorySessionStore(max_bytes=1_000_000)
    for number in range(9):
        await store.save(Session(f"{number}", messages=(Message("user", "x" * 100_000),)))
    assert len(store) == 9
    await store.load("0")
    assert caplog.messages == []
    await store.save(Session("long", messages=(Message("user", "\N{GRINNING FACE}" * 50_000),)))  # 4 bytes each
    assert await store.load("1") is None
    assert await store.load("2") is None
    assert await store.load("0") is not None
    for number in range(20):
        await store.save(Session(f"{number}", state={"notes": ["y" * 100_000]}))
    assert 7 <= len(store) <= 9
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "max_bytes=1000000" in caplog.text


@pytest.mark.parametrize("cut", [1, 2, 5])
async def test_a_session_that_loses_its_oldest_messages_takes_the_room_of_those_it_has(cut: int) -> None:
    store = MemorySessionStore(max_bytes=1_000_000)
    messages = tuple(Message("user", f"{number} " + "x" * number * 100) for number in range(200))
    for number in range(0, 180, cut):
        stored = await store.load("long") or Session("long")
        await store.save(Session("long", messages=messages[number : number + 20], version=stored.version))
    # It has 20 messages of up to 20,000 bytes by now.
    await store.save(Session("other", messages=(Message("user", "x" * 590_000),)))
    assert len(store) == 2
    await store.save(Session("more", messages=(Message("user", "x" * 100_000),)))
    assert len(store) == 2


async def test_a_session_larger_than_the_bound_is_kept_while_it_is_the_newest() -> None:
    store = MemorySessionStore(max_bytes=1_000)
    await store.save(Session("a", messages=(Message("user", "x" * 10_000),)))
    assert await store.load("a") is not None
    await store.save(Session("b"))
    assert await store.load("a") is None
    assert await store.load("b") is not None


async def test_what_is_forgotten_overwritten_or_cut_takes_no_room() -> None:
    now = 0.0
    store = MemorySessionStore(max_bytes=1_000_000, ttl=10, clock=lambda: now)
    messages = tuple(Message("user", "x" * 100_000) for _ in range(8))
    for turn in range(50):
        for count in (1, 4, 8, 6, 2):
            await store.save(Session("a", messages=messages[turn % 3 : turn % 3 + count]))
        await store.save(Session("b", messages=messages[:1]))
        await store.delete("b")
    now = 10.0
    assert len(store) == 0
    for number in range(9):
        await store.save(Session(f"{number}", messages=messages[:1]))
    assert len(store) == 9


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, "1", None])
def test_a_bound_in_bytes_is_a_number(max_bytes: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"max_bytes=.* at least 1"):
        MemorySessionStore(max_bytes=max_bytes)


async def test_a_run_keeps_its_session_though_others_have_crowded_it_out() -> None:
    store = MemorySessionStore(max_bytes=100_000)
    agent = Agent("offline", sessions=store)

    @agent.before_request
    async def crowd(context: RunContext) -> None:
        if context.input == "slow":
            for number in range(5):
                await store.save(Session(f"{number}", messages=(Message("user", "x" * 50_000),)))

    await agent.arun("first", session_id="s")
    await agent.arun("slow", session_id="s")
    session = await store.load("s")
    assert session is not None
    assert [message.content for message in session.messages] == ["first", "first", "slow", "slow"]


async def test_a_state_may_hold_any_object_that_can_be_copied() -> None:
    store = MemorySessionStore()
    await store.save(Session("s", state={1: {2, 3}, "error": ValueError}))
    loaded = await store.load("s")
    assert loaded is not None
    assert loaded.state == {1: {2, 3}, "error": ValueError}


@pytest.fixture
def many_thread_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("many_thread_switches")
def test_threads_that_evict_and_expire_are_not_in_each_others_way(anyio_backend_name: str) -> None:
    ticks = iter(range(10**9))
    store = MemorySessionStore(max_sessions=5, ttl=7, clock=lambda: float(next(ticks)))
    failures: list[BaseException] = []

    async def use(seed: int) -> None:
        for number in range(2000):
            session_id = str((seed * number) % 13)
            await store.save(Session(session_id, state={"n": number}))
            await store.load(str(number % 13))
            await store.delete(str(number % 5))

    def run(seed: int) -> None:
        try:
            anyio.run(use, seed, backend=anyio_backend_name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not failures
    assert len(store) <= 5


def test_sqlite_is_not_loaded_for_it() -> None:
    code = "import sys; from definable.agent.session import MemorySessionStore; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "False"
