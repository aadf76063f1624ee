"""Hooks around every run."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent, RunContext, RunOutput
from definable.agent.session import SQLiteSessionStore
from definable.errors import RunTimeout, StorageError
from definable.model import ModelRequest, OfflineModel

pytestmark = pytest.mark.anyio


async def test_hooks_are_called_in_order_with_and_without_parentheses_sync_and_async() -> None:
    agent = Agent("offline")
    seen: list[Any] = []

    @agent.before_request
    def first(context: RunContext) -> None:
        seen.append(("first", context.input))

    @agent.before_request()
    async def second(context: RunContext) -> None:
        seen.append(("second", context.run_id))

    @agent.after_response
    async def third(output: RunOutput) -> None:
        seen.append(("third", output.content))

    output = await agent.arun("hi")
    assert seen == [("first", "hi"), ("second", output.run_id), ("third", "hi")]


async def test_on_error_gets_the_context_and_the_exception() -> None:
    agent = Agent(OfflineModel(ValueError("broken")))
    seen: list[tuple[Any, Exception]] = []
    agent.on_error(lambda context, error: seen.append((context.input, error)))
    agent.after_response(lambda output: seen.append((output, ValueError("never"))))
    with pytest.raises(ValueError, match="broken") as raised:
        await agent.arun("hi")
    assert seen == [("hi", raised.value)]


async def test_on_error_hears_of_a_timeout() -> None:
    agent = Agent(OfflineModel(latency=60), run_timeout=0.01)
    seen: list[Exception] = []
    agent.on_error(lambda context, error: seen.append(error))
    with pytest.raises(RunTimeout):
        await agent.arun("hi")
    assert [type(error) for error in seen] == [RunTimeout]


@pytest.mark.parametrize("session_id", [None, "s"])
async def test_on_error_gets_the_context_of_the_run_that_timed_out(session_id: str | None) -> None:
    agent = Agent(OfflineModel(latency=60), run_timeout=0.01)
    seen: list[RunContext] = []

    @agent.before_request
    async def before_run(context: RunContext) -> None:
        seen.append(context)

    agent.on_error(lambda context, error: seen.append(context))
    with pytest.raises(RunTimeout):
        await agent.arun("hi", session_id=session_id)
    before, after = seen
    assert after is before


async def test_on_error_gets_a_context_also_of_a_run_whose_turn_did_not_come_in_time() -> None:
    agent = Agent("offline", run_timeout=0.01)
    seen: list[RunContext] = []
    agent.on_error(lambda context, error: seen.append(context))
    async with agent.runner.sessions.turn("s"):
        with pytest.raises(RunTimeout):
            await agent.arun("hi", session_id="s", user_id="ann", metadata={"a": 1})
    [context] = seen
    assert (context.session_id, context.user_id, context.input, context.metadata) == ("s", "ann", "hi", {"a": 1})


async def test_on_error_hears_of_a_session_that_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(b"no database" * 100)
    agent = Agent("offline", sessions=SQLiteSessionStore(path))
    seen: list[tuple[str, Exception]] = []
    agent.on_error(lambda context, error: seen.append((context.session_id, error)))
    with pytest.raises(StorageError) as raised:
        await agent.arun("hi", session_id="s")
    assert seen == [("s", raised.value)]


async def test_a_failing_hook_is_logged_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")
    called: list[str] = []

    @agent.before_request
    async def broken(context: RunContext) -> None:
        raise RuntimeError("a hook's own trouble")

    @agent.before_request
    async def after(context: RunContext) -> None:
        called.append("after")

    with caplog.at_level(logging.ERROR, "definable"):
        output = await agent.arun("hi")
    assert output.content == "hi"
    assert called == ["after"]
    assert "a hook's own trouble" in caplog.text
    assert "broken" in caplog.text


async def test_a_hook_that_exits_is_a_failing_hook(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")
    agent.before_request(lambda context: sys.exit(3))
    assert (await agent.arun("hi")).content == "hi"
    assert "SystemExit: 3" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio's event loop ends, whatever one does
async def test_a_hook_that_exits_in_a_task_of_its_own_is_a_failing_hook(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")

    async def leave() -> None:
        sys.exit(3)

    @agent.before_request
    async def fan_out(context: RunContext) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(leave)

    assert (await agent.arun("hi")).content == "hi"
    assert "SystemExit: 3" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets nobody make one
async def test_a_hook_that_meets_the_cancellation_of_another_task_is_a_failing_hook(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = Agent("offline")

    @agent.before_request
    async def wait_for_the_dead(context: RunContext) -> None:
        raise asyncio.CancelledError

    assert (await agent.arun("hi")).content == "hi"
    assert "wait_for_the_dead failed" in caplog.text


async def test_on_error_hears_of_a_model_that_exits() -> None:
    agent = Agent(OfflineModel(lambda request: sys.exit(3)))
    seen: list[BaseException] = []
    agent.on_error(lambda context, error: seen.append(error))
    with pytest.raises(SystemExit):
        await agent.arun("hi")
    assert [type(error) for error in seen] == [SystemExit]


def test_what_is_no_function_is_refused_where_it_is_given() -> None:
    with pytest.raises(TypeError, match="before_request takes a function, not 5"):
        Agent("offline").before_request(5)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_hook_that_cannot_be_called_is_refused_where_it_is_given() -> None:
    agent = Agent("offline")
    with pytest.raises(TypeError, match="before_request takes a function of the RunContext, not"):
        agent.before_request(lambda: None)
    with pytest.raises(TypeError, match="on_error takes a function of the RunContext and the exception, not"):
        agent.on_error(lambda error: None)


def test_a_hook_that_would_never_run_is_refused_where_it_is_given() -> None:
    agent = Agent("offline")

    with pytest.raises(TypeError, match="has a yield"):

        @agent.before_request
        def timed(context: RunContext) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
            yield

    with pytest.raises(TypeError, match="has a yield"):

        @agent.after_response()
        async def logged(output: RunOutput) -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
            yield


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets nobody make one
async def test_on_error_hears_of_a_model_that_meets_the_cancellation_of_another_task() -> None:
    async def wait_for_the_dead(request: ModelRequest) -> str:
        raise asyncio.CancelledError

    agent = Agent(OfflineModel(wait_for_the_dead))
    seen: list[BaseException] = []
    agent.on_error(lambda context, error: seen.append(error))
    with pytest.raises(asyncio.CancelledError):
        await agent.arun("hi")
    assert [type(error) for error in seen] == [asyncio.CancelledError]


async def test_on_error_hears_nothing_of_a_run_that_is_cancelled() -> None:
    agent = Agent(OfflineModel(latency=60))
    seen: list[BaseException] = []
    agent.on_error(lambda context, error: seen.append(error))
    with anyio.move_on_after(0.01):
        await agent.arun("hi")
    assert seen == []
