"""Following a run: its events, its failures, and leaving it early."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest
from loopback.openai_server import OpenAIServer, Problem

from definable.agent import Agent, RunEnded, RunStarted, TextDelta, ToolCallEnded, ToolCallStarted
from definable.agent.run.output import RunEvent
from definable.errors import ModelRateLimitError, ModelResponseError
from definable.model import ModelDelta, ModelReply, ModelRequest, OfflineModel, OpenAIChat, ToolCall

pytestmark = pytest.mark.anyio


def answer() -> int:
    return 42


async def test_the_events_of_a_run_come_in_order() -> None:
    agent = Agent(
        OfflineModel([ModelReply("let me see", tool_calls=(ToolCall("answer"),)), "it is 42"]), tools=[answer]
    )
    events: list[RunEvent] = []
    async with agent.arun_stream("hi", session_id="s") as stream:
        events += [event async for event in stream]
    kinds = [type(event) for event in events]
    deltas = [TextDelta] * 3
    assert kinds == [RunStarted, *deltas, ToolCallStarted, ToolCallEnded, *deltas, RunEnded]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "let me seeit is 42"
    assert isinstance(events[-1], RunEnded)
    assert events[-1].output.content == "it is 42"
    assert stream.output is events[-1].output


async def test_a_streamed_run_is_kept_in_its_session() -> None:
    model = OfflineModel()
    agent = Agent(model)
    async with agent.arun_stream("one", session_id="s") as stream:
        assert [event async for event in stream]
    await agent.arun("two", session_id="s")
    assert [message.content for message in model.requests[1].messages] == ["one", "one", "two"]


async def test_iterating_raises_what_the_run_raises() -> None:
    agent = Agent(OfflineModel(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        async with agent.arun_stream("hi") as stream:
            async for event in stream:
                assert isinstance(event, RunStarted)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets nobody make one
async def test_iterating_raises_when_the_run_meets_the_cancellation_of_another_task() -> None:
    async def wait_for_the_dead(request: ModelRequest) -> str:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="the run raised CancelledError"):
        async with Agent(OfflineModel(wait_for_the_dead)).arun_stream("hi") as stream:
            _ = [event async for event in stream]


async def test_iterating_raises_the_exit_of_the_run() -> None:
    def leave(context: object) -> str:
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        async with Agent("offline", instructions=leave).arun_stream("hi") as stream:
            _ = [event async for event in stream]


async def test_an_error_of_the_reader_reaches_it_plain() -> None:
    with pytest.raises(KeyError):
        async with Agent("offline").arun_stream("hi"):
            raise KeyError("mine")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_an_exit_in_the_middle_of_a_run_is_one(error: type[BaseException]) -> None:
    with pytest.raises(error):
        async with Agent("offline").arun_stream("hi"):
            raise error


async def test_leaving_early_cancels_the_run() -> None:
    cancelled = anyio.Event()

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    agent = Agent(OfflineModel([ModelReply(tool_calls=(ToolCall("hang"),))]), tools=[hang])
    with anyio.fail_after(5):
        async with agent.arun_stream("hi", session_id="s") as stream:
            async for event in stream:
                if isinstance(event, ToolCallStarted):
                    await anyio.wait_all_tasks_blocked()
                    break
    assert cancelled.is_set()
    assert await agent.sessions.load("s") is None


async def test_a_generator_around_a_run_may_be_closed_early() -> None:
    agent = Agent(OfflineModel("one two three four"))

    async def events() -> AsyncGenerator[RunEvent]:
        async with agent.arun_stream("hi", session_id="s") as stream:
            async for event in stream:
                yield event

    async with aclosing(events()) as closing:
        async for event in closing:
            assert isinstance(event, RunStarted)
            break
    with anyio.fail_after(5):
        assert len([event async for event in events()]) == 6


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio says that it closes it
async def test_a_generator_around_a_run_that_a_break_leaves_behind_harms_nobody() -> None:
    agent = Agent(OfflineModel("one two " * 100))

    async def events() -> AsyncGenerator[RunEvent]:
        async with agent.arun_stream("hi", session_id="s") as stream:
            async for event in stream:
                yield event

    async def first() -> None:
        async for event in events():
            assert isinstance(event, RunStarted)
            break

    with anyio.fail_after(20):
        await first()
        async with anyio.create_task_group() as tasks:  # of a task that has ended when it is collected
            tasks.start_soon(first)
        gc.collect()
        async with agent.arun_stream("hi", session_id="s") as stream:  # its turn comes when those runs have ended
            assert len([event async for event in stream]) == 202


async def test_a_run_may_be_left_in_another_task() -> None:
    agent = Agent(OfflineModel("one two " * 100))
    following = agent.arun_stream("hi", session_id="s")
    entered: list[RunEvent] = []

    async def enter() -> None:
        entered.append(await anext(await following.__aenter__()))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
        assert isinstance(entered[0], RunStarted)
        await following.__aexit__(None, None, None)
        async with agent.arun_stream("hi", session_id="s") as stream:
            assert len([event async for event in stream]) == 202


async def test_a_run_whose_reader_is_cancelled_has_ended_with_it() -> None:
    cancelled = anyio.Event()

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    agent = Agent(OfflineModel([ModelReply(tool_calls=(ToolCall("hang"),))]), tools=[hang])
    with anyio.CancelScope() as scope:
        async with agent.arun_stream("hi") as stream:
            async for event in stream:
                if isinstance(event, ToolCallStarted):
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
    assert cancelled.is_set()


def test_a_run_that_has_not_begun_when_the_event_loop_ends_holds_up_nobody() -> None:
    """asyncio cancels a task before its first step: nothing of it is ever run."""
    left: list[str] = []

    async def read() -> None:
        try:
            async with Agent("offline").arun_stream("hi") as stream:
                await anext(stream)
        finally:
            left.append("left")

    async def main() -> None:
        reader = asyncio.get_running_loop().create_task(read())
        await asyncio.sleep(0)
        assert not reader.done()

    asyncio.run(main())
    assert left == ["left"]


async def test_a_retry_that_its_readers_deadline_would_cut_off_is_not_waited_for() -> None:
    async with OpenAIServer().running() as server:
        model = OpenAIChat("gpt-4o", server.key, server.url)
        server.play(Problem(429, "slow down", headers={"retry-after": "25"}))
        with anyio.fail_after(20):
            async with Agent(model).arun_stream("hi") as stream:
                with pytest.raises(ModelRateLimitError):
                    _ = [event async for event in stream]
        await model.aclose()


async def test_the_deadline_of_a_reader_cuts_the_run_off_with_it() -> None:
    async def hang() -> None:
        await anyio.sleep_forever()

    agent = Agent(OfflineModel([ModelReply(tool_calls=(ToolCall("hang"),))]), tools=[hang])
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.1):
            async with agent.arun_stream("hi") as stream:
                _ = [event async for event in stream]


async def test_the_first_delta_comes_while_the_model_still_talks() -> None:
    agent = Agent("offline")
    async with agent.arun_stream("a b c") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                assert stream.output is None
                break


async def test_a_run_never_gets_far_ahead_of_its_reader() -> None:
    agent = Agent("offline")
    async with agent.arun_stream(" ".join(["word"] * 1000)) as stream:
        await anyio.wait_all_tasks_blocked()
        assert stream.output is None
        assert len([event async for event in stream if isinstance(event, TextDelta)]) == 1000


async def test_a_model_whose_stream_ends_without_a_reply_fails_the_run() -> None:
    class BreaksOff(OfflineModel):
        @asynccontextmanager
        async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelDelta]]:
            async def deltas() -> AsyncIterator[ModelDelta]:
                yield ModelDelta("half a")

            yield deltas()

    with pytest.raises(ModelResponseError, match="the stream of offline ended without a whole reply"):
        async with Agent(BreaksOff()).arun_stream("hi") as stream:
            assert [event.text async for event in stream if isinstance(event, TextDelta)] == ["half a"]
