"""Sessions as an agent's runs see them, over every store."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent, RunContext, RunOutput
from definable.agent.session import (
    MemorySessionStore,
    RedisSessionStore,
    Session,
    SessionStore,
    SQLiteSessionStore,
)
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError, ModelConnectionError, RunTimeout, SessionNotFound
from definable.model import Message, ModelReply, ModelRequest, OfflineModel, ToolCall
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


@pytest.fixture(params=["memory", "sqlite"])
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    return MemorySessionStore() if request.param == "memory" else SQLiteSessionStore(tmp_path / "sessions.db")


def texts(request: ModelRequest) -> list[str]:
    return [message.content for message in request.messages]


async def contents(sessions: SessionStore, session_id: str = "s") -> list[str]:
    session = await sessions.load(session_id)
    return [] if session is None else [message.content for message in session.messages]


async def test_runs_of_one_session_share_its_history(sessions: SessionStore) -> None:
    model = OfflineModel()
    agent = Agent(model, sessions=sessions)
    for text in "abc":
        await agent.arun(text, session_id="s")
    await agent.arun("x", session_id="other")
    assert [texts(request) for request in model.requests] == [["a"], ["a", "a", "b"], ["a", "a", "b", "b", "c"], ["x"]]


class Counting(MemorySessionStore):
    """Counts what it was asked to store."""

    saved = 0

    async def save(self, session: Session) -> None:
        self.saved += 1
        await super().save(session)


async def test_a_session_that_nobody_named_is_stored_only_where_that_is_asked_for() -> None:
    agent = Agent("offline", sessions=(sessions := Counting()))
    kept: list[str] = []

    @agent.on(EventTrigger("x"))
    async def handle(event: TriggerEvent) -> Any:
        return event.body["asks"]

    @agent.after_response
    async def note(output: RunOutput) -> None:
        if await sessions.load(output.session_id) is not None:
            kept.append(output.content)

    async with agent.running(enable_server=False):
        for asks in ("text", {"input": "dict"}, {"input": "keep", "keep": True}, {"input": "named", "session_id": "s"}):
            agent.emit("x", {"asks": asks})
    await agent.arun("arun")
    await agent.arun("arun, kept", keep=True)
    async with agent.arun_stream("stream") as events:
        [event async for event in events]
    async with agent.arun_stream("stream, kept", keep=True) as events:
        [event async for event in events]
    assert sorted(kept) == ["arun, kept", "keep", "named", "stream, kept"]
    assert sessions.saved == 4


async def test_what_says_whether_to_keep_is_a_truth_value() -> None:
    with pytest.raises(ConfigurationError, match="keep='no'"):
        await Agent("offline").arun("a", keep="no")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("make", [SQLiteSessionStore, lambda path: RedisSessionStore()], ids=["sqlite", "redis"])
async def test_durable_stores_forget_a_session_a_month_after_its_last_use(make: Any, tmp_path: Path) -> None:
    assert make(tmp_path / "sessions.db").ttl == 30 * 24 * 3600


async def test_a_run_without_a_session_begins_one_that_can_be_gone_on_with(sessions: SessionStore) -> None:
    model = OfflineModel()
    agent = Agent(model, sessions=sessions)
    output = await agent.arun("a", user_id="ann", keep=True)
    await agent.arun("b", session_id=output.session_id, user_id="ann")
    assert texts(model.requests[-1]) == ["a", "a", "b"]


async def test_runs_of_one_session_are_made_in_arrival_order(sessions: SessionStore) -> None:
    release = anyio.Event()

    async def answer(request: ModelRequest) -> str:
        await release.wait()
        return "ok"

    agent = Agent(OfflineModel(answer), sessions=sessions)

    async def run(number: int) -> None:
        await agent.arun(str(number), session_id="s")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(run, number)
                await anyio.wait_all_tasks_blocked()
            release.set()
    assert (await contents(sessions))[::2] == [str(number) for number in range(10)]


async def test_runs_of_different_sessions_do_not_wait_on_each_other(sessions: SessionStore) -> None:
    everybody_is_here = anyio.Event()
    here: list[str] = []

    async def answer(request: ModelRequest) -> str:
        here.append(request.messages[-1].content)
        if len(here) == 50:
            everybody_is_here.set()
        await everybody_is_here.wait()
        return "ok"

    agent = Agent(OfflineModel(answer), sessions=sessions)

    async def run(number: int) -> None:
        await agent.arun(str(number), session_id=f"s{number}")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(run, number)
    for number in range(50):
        assert await contents(sessions, f"s{number}") == [str(number), "ok"]


async def test_the_state_is_kept_with_the_session(sessions: SessionStore) -> None:
    def count(context: RunContext) -> int:
        context.session_state["count"] = context.session_state.get("count", 0) + 1
        return context.session_state["count"]

    def answer(request: ModelRequest) -> ModelReply | str:
        last = request.messages[-1]
        return last.content if last.role == "tool" else ModelReply(tool_calls=(ToolCall("count"),))

    agent = Agent(OfflineModel(answer), tools=[count], sessions=sessions)
    assert [(await agent.arun("?", session_id="s")).content for _ in range(3)] == ["1", "2", "3"]
    assert (await agent.arun("?", session_id="other")).content == "1"


async def test_a_session_belongs_to_who_began_it(sessions: SessionStore) -> None:
    agent = Agent("offline", sessions=sessions)
    await agent.arun("secret", session_id="s", user_id="ann")
    for user_id in ("bob", None):
        with pytest.raises(SessionNotFound, match="'s'"):
            await agent.arun("what did she say?", session_id="s", user_id=user_id)
    await agent.arun("more", session_id="s", user_id="ann")
    assert await contents(sessions) == ["secret", "secret", "more", "more"]


async def test_a_run_that_fails_leaves_the_session_as_it_was(sessions: SessionStore) -> None:
    def change(context: RunContext) -> str:
        context.session_state["changed"] = True
        return "done"

    calls = ModelReply(tool_calls=(ToolCall("change"),))
    agent = Agent(OfflineModel(["kept", calls, ModelConnectionError("gone")]), tools=[change], sessions=sessions)
    await agent.arun("a", session_id="s")
    before = await sessions.load("s")
    with pytest.raises(ModelConnectionError):
        await agent.arun("b", session_id="s")
    assert await sessions.load("s") == before


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_run_that_is_cut_off_leaves_the_session_as_it_was(sessions: SessionStore, how: str) -> None:
    reached = anyio.Event()

    async def hang(context: RunContext) -> str:
        context.session_state["changed"] = True
        reached.set()
        await anyio.sleep_forever()
        return "never"

    script = ["kept", ModelReply(tool_calls=(ToolCall("hang"),)), "after"]
    timeout = 60.0 if how == "timed out" else None
    agent = Agent(OfflineModel(script), tools=[hang], sessions=sessions, run_timeout=timeout)
    await agent.arun("a", session_id="s")
    before = await sessions.load("s")

    async def cut_off() -> None:
        if how == "timed out":
            with pytest.raises(RunTimeout):
                await agent.arun("b", session_id="s")
        else:
            await agent.arun("b", session_id="s")

    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut_off)
            await reached.wait()
            if how == "cancelled":
                tasks.cancel_scope.cancel()
        assert await sessions.load("s") == before
        await agent.arun("c", session_id="s")
    assert await contents(sessions) == ["a", "kept", "c", "after"]


async def test_a_waiting_run_that_is_cancelled_lets_the_next_go(sessions: SessionStore) -> None:
    release = anyio.Event()

    async def answer(request: ModelRequest) -> str:
        await release.wait()
        return "ok"

    agent = Agent(OfflineModel(answer), sessions=sessions)
    scopes = {text: anyio.CancelScope() for text in "abc"}

    async def run(text: str) -> None:
        with scopes[text]:
            await agent.arun(text, session_id="s")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for text in "abc":
                tasks.start_soon(run, text)
                await anyio.wait_all_tasks_blocked()
            scopes["b"].cancel()
            release.set()
    assert await contents(sessions) == ["a", "ok", "c", "ok"]


async def test_history_is_bounded_and_whole(sessions: SessionStore) -> None:
    def look() -> str:
        return "seen"

    def answer(request: ModelRequest) -> ModelReply | str:
        return "ok" if request.messages[-1].role == "tool" else ModelReply(tool_calls=(ToolCall("look", id="same"),))

    model = OfflineModel(answer)
    agent = Agent(model, instructions="Look.", tools=[look], sessions=sessions, max_history=9)
    for number in range(6):
        await agent.arun(str(number), session_id="s")
    assert await contents(sessions) == ["4", "", "seen", "ok", "5", "", "seen", "ok"]
    assert texts(model.requests[-1]) == ["Look.", "3", "", "seen", "ok", "4", "", "seen", "ok", "5", "", "seen"]


async def test_two_agents_may_share_a_store(sessions: SessionStore) -> None:
    first, second = Agent("offline", sessions=sessions), Agent("offline", sessions=sessions)
    await first.arun("a", session_id="s")
    await second.arun("b", session_id="s")
    await first.arun("c", session_id="s")
    assert (await contents(sessions))[::2] == ["a", "b", "c"]


async def test_scripts_in_threads_share_a_session(sessions: SessionStore) -> None:
    agent = Agent("offline", sessions=sessions)
    failures: list[BaseException] = []

    def script(name: str) -> None:
        try:
            for number in range(5):
                agent.run(f"{name}{number}", session_id="s")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=script, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, 40)
    assert not failures
    inputs = (await contents(sessions))[::2]
    assert len(inputs) == 20
    for name in "abcd":
        assert [text for text in inputs if text.startswith(name)] == [f"{name}{number}" for number in range(5)]


async def test_a_run_within_its_own_sessions_run_is_warned_of(
    sessions: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask_again(context: RunContext) -> str:
        with anyio.move_on_after(60):
            await agent.arun("inner", session_id=context.session_id)
        return "gave up"

    script = [ModelReply(tool_calls=(ToolCall("ask_again"),)), "done"]
    agent = Agent(OfflineModel(script), tools=[ask_again], sessions=sessions)
    assert (await agent.arun("outer", session_id="s")).content == "done"
    assert "another run in its own session 's'" in caplog.text


SHARER = """
import sys
from definable.agent import Agent
from definable.agent.session import SQLiteSessionStore
path, name = sys.argv[1:]
agent = Agent("offline", sessions=SQLiteSessionStore(path))
for number in range(15):
    agent.run(f"{name} {number}", session_id=name)
    agent.run(f"{name} {number}", session_id="shared")
"""


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    children = [subprocess.Popen([sys.executable, "-c", SHARER, str(path), name]) for name in "abc"]
    assert [child.wait(timeout=50) for child in children] == [0, 0, 0]
    store: Any = SQLiteSessionStore(path)
    for name in "abc":
        assert anyio.run(contents, store, name) == [f"{name} {n}" for n in range(15) for _ in range(2)]
    shared = anyio.run(store.load, "shared")
    assert shared.messages
    assert all(
        (question.role, answer.role, question.content) == ("user", "assistant", answer.content)
        for question, answer in zip(shared.messages[::2], shared.messages[1::2], strict=True)
    ), "a save of another process came in between, but never half of one"
    assert isinstance(shared.messages[0], Message)
