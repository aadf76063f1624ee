"""An agent in a script: construction, runs, sessions, limits."""

import asyncio
import re
import threading
from typing import Any

import anyio
import pytest

from definable.agent import Agent, RunContext, RunOutput, RunStatus
from definable.agent.auth import APIKeyAuth
from definable.agent.bus import MemoryBus
from definable.agent.session import MemorySessionStore
from definable.errors import ConfigurationError, MaxTurnsExceeded, RunTimeout, SessionNotFound
from definable.model import Message, ModelReply, ModelRequest, OfflineModel, ToolCall
from definable.testing import VIRTUAL_BACKENDS, run

pytestmark = pytest.mark.anyio


def last_texts(request: ModelRequest) -> list[str]:
    return [message.content for message in request.messages]


async def test_a_run_says_who_what_and_how_long() -> None:
    output = await Agent(model="offline").arun("hi", user_id="ann", metadata={"a": 1})
    assert output.content == "hi"
    assert output.status is RunStatus.COMPLETED
    assert output.model == "offline"
    assert output.user_id == "ann"
    assert output.run_id.startswith("run_")
    assert output.session_id.startswith("session_")
    assert [message.role for message in output.messages] == ["user", "assistant"]
    assert output.usage.total_tokens == 2
    assert output.created_at > 0
    assert output.duration > 0


async def test_instructions_are_the_first_message() -> None:
    model = OfflineModel()
    await Agent(model, instructions="Be kind.").arun("hi")
    assert model.requests[0].messages[0] == Message("system", "Be kind.")


async def test_instructions_may_be_made_from_the_context() -> None:
    model = OfflineModel()

    async def instructions(context: RunContext) -> str:
        return f"You talk to {context.user_id}."

    await Agent(model, instructions=instructions).arun("hi", user_id="ann")
    await Agent(model, instructions=lambda context: f"Sync for {context.user_id}.").arun("hi", user_id="bob")
    assert [request.messages[0].content for request in model.requests] == ["You talk to ann.", "Sync for bob."]


async def test_tools_are_called_until_a_reply_asks_for_none() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    script = [ModelReply(tool_calls=(ToolCall("add", {"a": 1, "b": 2}, id="1"),)), "The sum is 3."]
    model = OfflineModel(script)
    output = await Agent(model, tools=[add]).arun("1 + 2?")
    assert output.content == "The sum is 3."
    (execution,) = output.tool_calls
    assert (execution.name, execution.result, execution.error) == ("add", "3", None)
    assert model.requests[1].messages[-1] == Message("tool", "3", tool_call_id="1")
    assert model.requests[0].tools[0].name == "add"


async def test_tool_calls_of_one_reply_run_at_once_and_answer_in_order() -> None:
    arrived = [anyio.Event(), anyio.Event()]

    async def meet(me: int) -> int:
        arrived[me].set()
        await arrived[1 - me].wait()
        return me

    calls = (ToolCall("meet", {"me": 0}, id="a"), ToolCall("meet", {"me": 1}, id="b"))
    model = OfflineModel([ModelReply(tool_calls=calls), "done"])
    with anyio.fail_after(5):
        output = await Agent(model, tools=[meet]).arun("go")
    assert [(execution.id, execution.result) for execution in output.tool_calls] == [("a", "0"), ("b", "1")]


async def test_an_unknown_tool_bad_arguments_and_a_failing_tool_are_told_to_the_model() -> None:
    def fails(x: int) -> int:
        raise ValueError("no such thing")

    calls = (ToolCall("nope"), ToolCall("fails", "{bad"), ToolCall("fails", {"x": "a"}), ToolCall("fails", {"x": 1}))
    model = OfflineModel([ModelReply(tool_calls=calls), "sorry"])
    output = await Agent(model, tools=[fails]).arun("go")
    unknown, malformed, invalid, failed = (execution.result for execution in output.tool_calls)
    assert "unknown tool 'nope'" in unknown
    assert "fails" in unknown
    assert "JSON" in malformed
    assert "x" in invalid
    assert "ValueError: no such thing" in failed
    assert all(execution.error for execution in output.tool_calls)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets nobody make one
async def test_a_tool_that_meets_the_cancellation_of_another_task_is_told_to_the_model() -> None:
    async def wait_for_the_dead() -> None:
        raise asyncio.CancelledError

    async def work() -> str:
        return "worked"

    calls = (ToolCall("wait_for_the_dead"), ToolCall("work"))
    agent = Agent(OfflineModel([ModelReply(tool_calls=calls), "done"]), tools=[wait_for_the_dead, work])
    output = await agent.arun("hi")
    assert [execution.result for execution in output.tool_calls] == ["CancelledError", "worked"]


async def test_the_turns_are_bounded() -> None:
    def again() -> str:
        return "again"

    model = OfflineModel(lambda request: ModelReply(tool_calls=(ToolCall("again"),)))
    with pytest.raises(MaxTurnsExceeded, match=r"3 turns.*again"):
        await Agent(model, tools=[again], max_turns=3).arun("go")
    assert len(model.requests) == 3


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_a_run_has_a_deadline_that_its_tools_inherit(backend: str) -> None:
    cancelled: list[float] = []

    async def hang() -> None:
        began = anyio.current_time()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(anyio.current_time() - began)

    model = OfflineModel([ModelReply(tool_calls=(ToolCall("hang"),))])
    with pytest.raises(RunTimeout, match=r"run_timeout=90 "):
        run(Agent(model, tools=[hang], run_timeout=90).arun, "go", backend=backend)
    assert cancelled == [pytest.approx(90)]


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_a_tool_that_swallows_a_cancellation_once_does_not_keep_the_run_alive(backend: str) -> None:
    swallowed = 0

    async def stubborn() -> str:
        nonlocal swallowed
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            swallowed += 1
        return "I go on"

    model = OfflineModel([ModelReply(tool_calls=(ToolCall("stubborn"),)), "never"])
    with pytest.raises(RunTimeout):
        run(Agent(model, tools=[stubborn], run_timeout=90).arun, "go", backend=backend)
    assert swallowed == 1


async def test_runs_of_one_session_share_its_history_and_state() -> None:
    model = OfflineModel()

    def count(context: RunContext) -> str:
        context.session_state["count"] = context.session_state.get("count", 0) + 1
        return f"run {context.session_state['count']}"

    agent = Agent(model, instructions=count)
    await agent.arun("one", session_id="s")
    await agent.arun("two", session_id="s")
    await agent.arun("elsewhere", session_id="t")
    assert last_texts(model.requests[1]) == ["run 2", "one", "one", "two"]
    assert last_texts(model.requests[2]) == ["run 1", "elsewhere"]


async def test_a_session_without_an_id_can_be_gone_on_with_if_it_is_kept() -> None:
    model = OfflineModel()
    agent = Agent(model)
    first = await agent.arun("one", keep=True)
    await agent.arun("two", session_id=first.session_id)
    assert last_texts(model.requests[1]) == ["one", "one", "two"]


async def test_runs_of_one_session_are_made_in_arrival_order() -> None:
    model = OfflineModel(latency=0.001)
    agent = Agent(model)
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(lambda n: agent.arun(str(n), session_id="s"), number)
            await anyio.lowlevel.checkpoint()
    said = [message.content for message in model.requests[-1].messages if message.role == "user"]
    assert said == [str(number) for number in range(10)]


async def test_a_session_belongs_to_the_user_who_began_it() -> None:
    agent = Agent("offline")
    await agent.arun("mine", session_id="s", user_id="ann")
    with pytest.raises(SessionNotFound):
        await agent.arun("yours?", session_id="s", user_id="bob")
    with pytest.raises(SessionNotFound):
        await agent.arun("whose?", session_id="s")


async def test_a_session_that_nobody_owns_is_not_taken_over() -> None:
    agent = Agent("offline")
    await agent.arun("whose?", session_id="s")
    with pytest.raises(SessionNotFound):
        await agent.arun("mine!", session_id="s", user_id="ann")


async def test_forgetting_a_session_waits_for_the_run_in_it() -> None:
    agent = Agent(OfflineModel(latency=0.01))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: agent.arun("hi", session_id="s"))
        await anyio.wait_all_tasks_blocked()
        assert await agent.runner.sessions.forget("s")
    assert await agent.sessions.load("s") is None
    assert not await agent.runner.sessions.forget("s")


async def test_a_run_that_fails_leaves_its_session_as_it_was() -> None:
    model = OfflineModel(["one", ValueError("broken"), "three"])
    agent = Agent(model)
    await agent.arun("1", session_id="s")
    with pytest.raises(ValueError, match="broken"):
        await agent.arun("2", session_id="s")
    await agent.arun("3", session_id="s")
    assert last_texts(model.requests[2]) == ["1", "one", "3"]


async def test_history_is_bounded_without_cutting_a_tool_call_from_its_result() -> None:
    def ping() -> str:
        return "pong"

    model = OfflineModel(
        lambda r: ModelReply(tool_calls=(ToolCall("ping"),)) if r.messages[-1].role == "user" else "ok"
    )
    agent = Agent(model, tools=[ping], max_history=6)
    for number in range(5):
        await agent.arun(str(number), session_id="s")
    history = model.requests[-2].messages
    assert [message.role for message in history] == ["user", "assistant", "tool", "assistant", "user"]


def test_run_works_again_and_again_and_from_threads() -> None:
    agent = Agent("offline")
    outputs: list[RunOutput] = [agent.run("one", session_id="s"), agent.run("two", session_id="s")]
    threads = [threading.Thread(target=lambda: outputs.append(agent.run("more", session_id="s"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(outputs) == 10
    assert len(anyio.run(agent.sessions.load, "s").messages) == 20


async def test_run_inside_an_event_loop_says_what_to_write_instead() -> None:
    with pytest.raises(RuntimeError, match=r"await agent\.arun"):
        Agent("offline").run("hi")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nope/x"}, "nope"),
        ({"model": 3}, "3"),
        ({"model": "offline", "max_turns": 0}, "max_turns=0"),
        ({"model": "offline", "run_timeout": 0}, "run_timeout=0"),
        ({"model": "offline", "max_history": 0}, "max_history=0"),
    ],
)
def test_a_wrong_argument_is_named_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Agent(**arguments)


async def test_a_wrong_input_is_named() -> None:
    with pytest.raises(ConfigurationError, match="42"):
        await Agent("offline").arun(42)


@pytest.mark.parametrize(
    "arguments",
    [{"session_id": 5}, {"session_id": b"5"}, {"user_id": 5}, {"metadata": "plan=free"}, {"metadata": [1]}],
    ids=str,
)
async def test_an_argument_that_a_run_cannot_take_is_named(arguments: dict[str, Any]) -> None:
    ((name, value),) = arguments.items()
    agent = Agent("offline")
    with pytest.raises(ConfigurationError, match=f"{name}={re.escape(repr(value))}"):
        await agent.arun("hi", **arguments)
    with pytest.raises(ConfigurationError, match=f"{name}="):
        agent.arun_stream("hi", **arguments)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("auth", "a-key"),
        ("auth", False),
        ("auth", APIKeyAuth),
        ("bus", "events.db"),
        ("bus", MemoryBus),
        ("sessions", "sessions.db"),
        ("sessions", MemorySessionStore),
        ("instructions", 5),
    ],
    ids=str,
)
def test_a_part_that_cannot_work_is_refused_where_it_is_given(part: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{part}={re.escape(repr(wrong))}: "):
        Agent("offline", **{part: wrong})


def test_an_auth_that_cannot_work_is_refused_where_it_is_set() -> None:
    agent = Agent("offline")
    with pytest.raises(ConfigurationError, match=r"auth=<class .*APIKeyAuth'>: a provider, such as APIKeyAuth"):
        agent.auth = APIKeyAuth  # pyright: ignore[reportAttributeAccessIssue]
