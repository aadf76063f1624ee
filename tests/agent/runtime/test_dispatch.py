"""What a handler returns, and what comes of it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import anyio
import pytest
import sniffio
from anyio.lowlevel import checkpoint

from definable.agent import Agent, RunContext, RunOutput
from definable.agent.runtime.dispatch import Dispatcher, Outcome, Returned
from definable.agent.runtime.runs import RunRegistry, TooManyRuns
from definable.agent.trigger import BaseTrigger, EventTrigger, Reply, TriggerEvent, Webhook
from definable.errors import ConfigurationError, MaxTurnsExceeded, RunCancelled, RunTimeout
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio

EVENT = TriggerEvent(body={"n": 1}, source="event(test)", timestamp=5.0)


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Setup:
    """A dispatcher, and a trigger whose handler it calls."""

    def __init__(self, handler: Callable[..., Any], trigger: BaseTrigger | None = None, max_runs: int = 10) -> None:
        self.agent = Agent("offline")
        self.trigger = EventTrigger("test") if trigger is None else trigger
        self.agent.on(self.trigger)(handler)
        self.registry = RunRegistry(self.agent.runner, max_runs)
        self.dispatcher = Dispatcher(self.registry)

    async def dispatch(self, event: TriggerEvent = EVENT, **options: Any) -> Outcome:
        return await self.dispatcher.dispatch(self.trigger, event, **options)


def both(value: object) -> list[Callable[[TriggerEvent], Any]]:
    async def in_the_loop(event: TriggerEvent) -> object:
        await checkpoint()
        return value

    def in_a_thread(event: TriggerEvent) -> object:
        assert threading.current_thread() is not threading.main_thread()
        return value

    return [in_the_loop, in_a_thread]


async def twice_removed(event: TriggerEvent) -> Awaitable[Awaitable[str]]:
    async def inner() -> str:
        await checkpoint()
        return "at last"

    async def outer() -> Awaitable[str]:
        await checkpoint()
        return inner()

    return outer()


@pytest.mark.parametrize("handler", both("do this"))
async def test_a_string_is_a_runs_input(handler: Any) -> None:
    output = await Setup(handler).dispatch(user_id="alice")
    assert isinstance(output, RunOutput)
    assert (output.content, output.user_id) == ("do this", "alice")


@pytest.mark.parametrize(
    "decision",
    [
        {"input": "do this", "session_id": "s", "user_id": "bob", "metadata": {"k": 1}},
        MappingProxyType({"input": "do this", "session_id": "s", "user_id": "bob", "metadata": {"k": 1}}),
    ],
)
async def test_a_dict_holds_a_runs_arguments(decision: Mapping[str, Any]) -> None:
    seen: list[RunContext] = []
    for handler in both(decision):
        setup = Setup(handler)
        setup.agent.before_request(seen.append)
        output = await setup.dispatch(user_id="alice", run_id="promised")
        assert isinstance(output, RunOutput)
        assert (output.run_id, output.session_id, output.user_id) == ("promised", "s", "bob")
    assert [(run.input, run.metadata, run.trigger) for run in seen] == [("do this", {"k": 1}, EVENT)] * 2


@pytest.mark.parametrize("handler", both(None))
async def test_none_acknowledges(handler: Any) -> None:
    setup = Setup(handler)
    assert await setup.dispatch() is None
    assert setup.registry.records() == ()


@pytest.mark.parametrize("handler", both(Reply("challenge", 201)))
async def test_a_reply_is_passed_on(handler: Any) -> None:
    assert await Setup(handler).dispatch() == Reply("challenge", 201)


@pytest.mark.parametrize("value", [5, 0, False, [1, 2], (), b"bytes", object()])
async def test_anything_else_is_returned_and_logged_at_debug(value: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "definable")
    for handler in both(value):
        assert await Setup(handler).dispatch() == Returned(value)
    assert caplog.text.count("the handler of event(test) returned") == 2


async def test_an_awaitable_is_awaited_and_what_comes_of_it_counts() -> None:
    output = await Setup(twice_removed).dispatch()
    assert isinstance(output, RunOutput) and output.content == "at last"

    def sync(event: TriggerEvent) -> Any:
        return twice_removed(event)

    output = await Setup(sync).dispatch()
    assert isinstance(output, RunOutput) and output.content == "at last"


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"input": "x", "sesion_id": "y", "b": 1}, "'b', 'sesion_id'"),
        ({"session_id": "y"}, "needs 'input'"),
        ({}, "needs 'input'"),
        ({"input": 5}, "5"),
        ({"input": "x", 1: 2}, "not 1"),
    ],
)
async def test_a_dict_that_arun_would_not_take_is_a_clear_error(decision: Any, says: str) -> None:
    for handler in both(decision):
        with pytest.raises(ConfigurationError, match=says):
            await Setup(handler).dispatch()


async def test_what_handler_or_run_raise_is_raised() -> None:
    async def broken(event: TriggerEvent) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Setup(broken).dispatch()
    setup = Setup(both("go")[0])
    setup.agent.runner._max_turns = 0  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(MaxTurnsExceeded):
        await setup.dispatch()


@pytest.mark.parametrize("is_async", [True, False])
async def test_sys_exit_in_a_handler_is_an_error_like_others(is_async: bool) -> None:
    async def in_the_loop(event: TriggerEvent) -> None:
        sys.exit(3)

    def in_a_thread(event: TriggerEvent) -> None:
        sys.exit(3)

    with pytest.raises(RuntimeError, match=r"a handler raised SystemExit"):
        await Setup(in_the_loop if is_async else in_a_thread).dispatch()


async def test_sys_exit_out_of_a_task_group_is_an_error_like_others() -> None:
    async def in_a_group(event: TriggerEvent) -> None:
        raise BaseExceptionGroup("from a task group", [ValueError(), SystemExit(3)])

    with pytest.raises(RuntimeError, match=r"a handler raised BaseExceptionGroup"):
        await Setup(in_a_group).dispatch()


async def test_a_cancellation_that_nobody_asked_for_is_an_error_like_others() -> None:
    async def stray(event: TriggerEvent) -> None:
        raise anyio.get_cancelled_exc_class()

    if sniffio.current_async_library() == "trio":
        pytest.skip("trio lets nobody make one")
    with pytest.raises(RuntimeError, match="raised Cancelled"):
        await Setup(stray).dispatch()


async def test_the_timeout_is_over_handler_and_run_together() -> None:
    async def slow(event: TriggerEvent) -> str:
        await anyio.sleep(2)
        return "go"

    async def slower(context: RunContext) -> None:
        await anyio.sleep(2)

    setup = Setup(slow, EventTrigger("test", timeout=3))
    assert await setup.dispatch()
    setup.agent.before_request(slower)
    began = anyio.current_time()
    with pytest.raises(RunTimeout, match=r"event\(test\) did not end within timeout=3 seconds"):
        await setup.dispatch()
    assert anyio.current_time() - began == pytest.approx(3)


async def test_being_cancelled_from_outside_is_no_error() -> None:
    async def hang(event: TriggerEvent) -> None:
        await anyio.sleep_forever()

    setup = Setup(hang)
    with anyio.move_on_after(1) as scope:
        await setup.dispatch()
    assert scope.cancelled_caught


# --- with a caller that waits


async def test_retries_back_off_and_then_raise() -> None:
    attempts: list[tuple[int, float]] = []

    async def broken(event: TriggerEvent) -> None:
        attempts.append((event.attempt, anyio.current_time()))
        assert event.id == EVENT.id
        raise ZeroDivisionError

    setup = Setup(broken, Webhook("/x", retries=3))
    with pytest.raises(ZeroDivisionError):
        await setup.dispatcher.dispatch_with_retries(setup.trigger, EVENT)
    assert [attempt for attempt, _ in attempts] == [1, 2, 3, 4]
    waits = [later - earlier for (_, earlier), (_, later) in pairwise(attempts)]
    assert waits == [pytest.approx(expected, rel=0.26) for expected in (1, 2, 4)]


async def test_a_retry_may_succeed() -> None:
    async def second_time(event: TriggerEvent) -> str:
        if event.attempt < 2:
            raise ZeroDivisionError
        return "done"

    setup = Setup(second_time, Webhook("/x", retries=3))
    output = await setup.dispatcher.dispatch_with_retries(setup.trigger, EVENT, user_id="alice")
    assert isinstance(output, RunOutput) and (output.content, output.user_id) == ("done", "alice")


async def test_a_run_that_somebody_cancelled_is_not_tried_again() -> None:
    setup = Setup(both("go")[0], Webhook("/x", retries=3))

    def cancel(context: RunContext) -> Any:
        assert setup.registry.cancel(context.run_id)

    async def cancel_run(context: RunContext) -> None:
        cancel(context)
        await checkpoint()

    setup.agent.before_request(cancel_run)
    with pytest.raises(RunCancelled):
        await setup.dispatcher.dispatch_with_retries(setup.trigger, EVENT)
    assert len(setup.registry.records()) == 1


async def test_callers_wait_for_their_turn_at_the_triggers_limit() -> None:
    active, most = 0, 0

    async def count(event: TriggerEvent) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await anyio.sleep(1)
        active -= 1

    setup = Setup(count, Webhook("/x", max_concurrency=2))
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(setup.dispatcher.dispatch_with_retries, setup.trigger, EVENT)
    assert most == 2
    assert anyio.current_time() - began == pytest.approx(3)


async def test_too_many_runs_fail_or_wait() -> None:
    setup = Setup(both("go")[0], max_runs=1)

    async def slow(context: RunContext) -> None:
        await anyio.sleep(1)

    setup.agent.before_request(slow)
    async with anyio.create_task_group() as group:
        group.start_soon(setup.dispatch)
        await anyio.sleep(0.5)
        with pytest.raises(TooManyRuns):
            await setup.dispatch()
        assert await setup.dispatch(wait_for_place=True)


@pytest.mark.parametrize("wrong", [{"session_id": 5}, {"user_id": 5}, {"metadata": "plan=free"}], ids=str)
async def test_a_dict_with_a_value_that_arun_does_not_take_is_a_clear_error(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}"):
        await Setup(lambda event: {"input": "hi", **wrong}).dispatch()
