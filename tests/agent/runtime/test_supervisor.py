"""One interface kept alive, in virtual time; and its messages answered, also while a stop drains."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest

from definable.agent import Agent, RunOutput
from definable.agent.bus import MemoryBus
from definable.agent.interface import (
    Accept,
    BaseInterface,
    InterfaceAuthenticationError,
    InterfaceConfig,
    InterfaceConnectionError,
    InterfaceMessage,
    InterfaceResponse,
)
from definable.agent.interface.message import MessageEnd
from definable.agent.interface.pipeline import AgentHandle, Pipeline
from definable.agent.run.context import RunRequest
from definable.agent.runtime import WorkCount
from definable.agent.runtime.supervisor import InterfaceState, Supervisor, health_of
from definable.agent.work import WorkTracker
from definable.concurrency.backoff import Backoff
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio

Receive = Callable[["Scripted", Accept], Awaitable[None]]


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Scripted(BaseInterface):
    """Receives as its script says, and remembers what was sent."""

    def __init__(self, receive: Receive, max_concurrent_requests: int = 10) -> None:
        super().__init__(
            InterfaceConfig(
                "scripted",
                max_concurrent_requests=max_concurrent_requests,
                rate_limit_messages_per_minute=1000,
                collect=0,
            )
        )
        self._script = receive
        self.starts: list[float] = []
        self.sent: list[tuple[str, str | None]] = []

    async def receive(self, accept: Accept) -> None:
        self.starts.append(anyio.current_time())
        await self._script(self, accept)

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.sent.append((message.platform_message_id, response.content))


def message(number: int, chat: str = "chat") -> InterfaceMessage:
    return InterfaceMessage("scripted", "user", chat, str(number), text=f"message {number}")


async def no_run(request: RunRequest) -> RunOutput:
    raise AssertionError("no run was expected")


def supervise(interface: BaseInterface, jitter: float = 0) -> Supervisor:
    supervisor = Supervisor(interface, AgentHandle(no_run), MemoryBus(), WorkTracker(), backoff=Backoff(jitter=jitter))
    supervisor.release()
    return supervisor


async def crash(interface: Scripted, accept: Accept) -> None:
    raise InterfaceConnectionError("gone")


async def stay(interface: Scripted, accept: Accept) -> None:
    await anyio.sleep_forever()


def waits(interface: Scripted) -> list[float]:
    return [round(after - before, 6) for before, after in pairwise(interface.starts)]


# --- restarts


async def test_a_crash_restarts_it_after_1_2_4_up_to_60_seconds() -> None:
    interface = Scripted(crash)
    supervisor = supervise(interface)
    with anyio.move_on_after(200):
        await supervisor.run()
    assert waits(interface) == [1, 2, 4, 8, 16, 32, 60, 60]
    assert supervisor.error == "InterfaceConnectionError: gone"


async def test_the_delays_have_jitter() -> None:
    interface = Scripted(crash)
    supervisor = supervise(interface, jitter=0.1)
    with anyio.move_on_after(200):
        await supervisor.run()
    assert waits(interface)[:5] == [pytest.approx(seconds, rel=0.11) for seconds in (1, 2, 4, 8, 16)]
    assert waits(interface)[:5] != [1, 2, 4, 8, 16]


async def test_sixty_seconds_of_stable_running_reset_the_delay() -> None:
    async def flap(interface: Scripted, accept: Accept) -> None:
        await anyio.sleep([0, 59, 0, 60, 0, 0][len(interface.starts) - 1])
        raise InterfaceConnectionError("gone")

    interface = Scripted(flap)
    with anyio.move_on_after(130):
        await supervise(interface).run()
    assert waits(interface) == [1, 59 + 2, 4, 60 + 1, 2]


async def test_the_wait_of_one_interface_never_delays_another() -> None:
    first, second = Scripted(crash), Scripted(crash)
    with anyio.move_on_after(50):
        async with anyio.create_task_group() as group:
            group.start_soon(supervise(first).run)
            await anyio.sleep(10)
            group.start_soon(supervise(second).run)
    assert waits(first) == [1, 2, 4, 8, 16]
    assert waits(second) == [1, 2, 4, 8, 16]


async def test_forty_nine_that_crash_for_ever_leave_the_fiftieth_alone() -> None:
    async def talk(interface: Scripted, accept: Accept) -> None:
        for number in range(600):
            await accept(message(number))
            await anyio.sleep(1)
        await anyio.sleep_forever()

    async def crash_late(interface: Scripted, accept: Accept) -> None:
        await accept(message(len(interface.starts), chat=str(id(interface))))
        await anyio.sleep(random.random())
        raise random.choice([InterfaceConnectionError("gone"), ZeroDivisionError(), SystemExit(1)])

    healthy, crashing = Scripted(talk), [Scripted(random.choice([crash, crash_late])) for _ in range(49)]
    agent = Agent("offline")
    async with agent.running(*crashing, healthy, enable_server=False) as runtime:
        fiftieth = runtime.supervisors[-1]
        for second in range(600):
            assert [text for _, text in healthy.sent] == [f"message {number}" for number in range(second)]
            await anyio.sleep(1 if second else 0.5)
            assert (fiftieth.state, fiftieth.is_well) == (InterfaceState.RUNNING, True)
    assert len(healthy.starts) == 1 and all(len(each.starts) > 10 for each in crashing)
    assert runtime.report is not None and runtime.report.clean
    assert runtime.report.sources[fiftieth.name].completed == 600


async def test_a_clean_return_is_not_restarted() -> None:
    async def end(interface: Scripted, accept: Accept) -> None:
        await anyio.sleep(5)

    interface = Scripted(end)
    supervisor = supervise(interface)
    await supervisor.run()
    assert supervisor.ended.is_set()
    assert (len(interface.starts), supervisor.state, supervisor.is_well) == (1, InterfaceState.ENDED, True)


@pytest.mark.parametrize(
    "error",
    [
        InterfaceAuthenticationError("bad token"),
        ExceptionGroup("", [InterfaceAuthenticationError("bad token")]),
        ExceptionGroup("", [InterfaceConnectionError("gone"), InterfaceAuthenticationError("bad token")]),
    ],
)
async def test_a_refused_token_is_final_and_shows_in_health(error: Exception) -> None:
    async def refuse(interface: Scripted, accept: Accept) -> None:
        raise error

    interface = Scripted(refuse)
    supervisor = supervise(interface)
    await supervisor.run()
    assert (len(interface.starts), supervisor.state) == (1, InterfaceState.FAILED)
    well, document = health_of("agent", False, [supervisor], firings=None)
    assert not well
    assert document["children"]["scripted"] == {"state": "failed"}


async def test_a_token_that_was_taken_before_may_be_refused_for_a_while() -> None:
    async def refuse_sometimes(interface: Scripted, accept: Accept) -> None:
        interface.alive()
        await anyio.sleep(1)
        if len(interface.starts) in (2, 4, 5, 6):
            raise InterfaceAuthenticationError("bad token")
        if len(interface.starts) == 8:
            return
        await anyio.sleep(100)
        raise InterfaceConnectionError("gone")

    interface = Scripted(refuse_sometimes)
    supervisor = supervise(interface)
    await supervisor.run()
    assert (len(interface.starts), supervisor.state) == (8, InterfaceState.ENDED)


async def test_a_token_that_is_refused_for_minutes_is_final_and_shows_in_health_before() -> None:
    async def revoked(interface: Scripted, accept: Accept) -> None:
        interface.alive()
        if len(interface.starts) == 1:
            await anyio.sleep(100)
        raise InterfaceAuthenticationError("bad token")

    interface = Scripted(revoked)
    supervisor = supervise(interface)
    async with anyio.create_task_group() as group:
        group.start_soon(supervisor.run)
        await anyio.sleep(100 + 10)
        assert (supervisor.state, supervisor.is_well) == (InterfaceState.RESTARTING, True)
        await anyio.sleep(130)
        assert (supervisor.state, supervisor.is_well) == (InterfaceState.RESTARTING, False)
        await supervisor.received.wait()
        assert (supervisor.state, supervisor.error) == (InterfaceState.FAILED, "bad token")
        supervisor.release()
    assert len(interface.starts) == 1 + 8
    assert 150 < interface.starts[-1] - interface.starts[0] - 100 < 200


async def test_sys_exit_is_a_crash_like_others() -> None:
    async def leave(interface: Scripted, accept: Accept) -> None:
        if len(interface.starts) == 1:
            raise SystemExit(3)

    interface = Scripted(leave)
    await supervise(interface).run()
    assert waits(interface) == [1]


async def test_sys_exit_while_it_opens_is_a_failure_of_that_interface_alone() -> None:
    class Leaving(Scripted):
        @asynccontextmanager
        async def connection(self) -> AsyncGenerator[None, None]:
            raise SystemExit(3)
            yield

    supervisor = supervise(Leaving(stay))
    await supervisor.run()
    assert supervisor.state is InterfaceState.FAILED


async def test_a_failure_is_an_error_in_the_log_once_and_again_after_it_had_passed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = [(0, "gone"), (0, "gone"), (0, "busy"), (0, "gone"), (60, "gone"), (0, "gone")]

    async def flap(interface: Scripted, accept: Accept) -> None:
        seconds, failure = script[len(interface.starts) - 1]
        await anyio.sleep(seconds)
        raise InterfaceConnectionError(failure)

    caplog.set_level(logging.DEBUG, "definable")
    with anyio.move_on_after(1 + 2 + 4 + 8 + 60 + 1 + 1):
        await supervise(Scripted(flap)).run()
    records = [record for record in caplog.records if "is down" in record.message]
    assert [record.levelname for record in records] == ["ERROR", "DEBUG", "ERROR", "ERROR", "ERROR", "DEBUG"]


@pytest.mark.parametrize(
    ("error", "has_traceback"),
    [
        (InterfaceConnectionError("gone"), False),
        (InterfaceAuthenticationError("bad token"), False),
        (ZeroDivisionError(), True),
    ],
)
async def test_only_a_surprise_has_a_traceback_in_the_log(
    error: Exception, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(interface: Scripted, accept: Accept) -> None:
        raise error

    with anyio.move_on_after(0.5):
        await supervise(Scripted(fail)).run()
    [record] = caplog.records
    assert record.exc_info == ((ZeroDivisionError, error, error.__traceback__) if has_traceback else None)


# --- health


async def test_health_is_truthful_while_it_restarts() -> None:
    supervisor = supervise(Scripted(crash))
    assert supervisor.state is InterfaceState.STARTING
    async with anyio.create_task_group() as group:
        group.start_soon(supervisor.run)
        await anyio.sleep(100)
        assert supervisor.is_well  # as down as its backoff explains
        await anyio.sleep(30)
        assert not supervisor.is_well
        group.cancel_scope.cancel()


async def test_health_recovers_with_the_interface() -> None:
    async def recover(interface: Scripted, accept: Accept) -> None:
        if anyio.current_time() - interface.starts[0] < 150:
            raise InterfaceConnectionError("gone")
        await anyio.sleep_forever()

    supervisor = supervise(Scripted(recover))
    async with anyio.create_task_group() as group:
        group.start_soon(supervisor.run)
        await anyio.sleep(140)
        assert not supervisor.is_well
        await anyio.sleep(60)
        assert (supervisor.state, supervisor.is_well) == (InterfaceState.RUNNING, True)
        group.cancel_scope.cancel()


# --- stopping


@pytest.mark.parametrize("receive", [crash, stay])
async def test_a_stop_ends_it_whether_it_runs_or_waits(receive: Receive) -> None:
    supervisor = supervise(Scripted(receive))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.run)
            await anyio.sleep(20)
            supervisor.stop_receiving()
    assert (supervisor.state, supervisor.ended.is_set()) == (InterfaceState.STOPPED, True)


async def test_a_stop_before_it_began_lets_nothing_begin() -> None:
    interface = Scripted(stay)
    supervisor = supervise(interface)
    supervisor.stop_receiving()
    with anyio.fail_after(1):
        await supervisor.run()
    assert (interface.starts, supervisor.state) == ([], InterfaceState.STOPPED)


async def test_an_interface_that_stops_untidily_takes_nothing_along(caplog: pytest.LogCaptureFixture) -> None:
    async def untidy(interface: Scripted, accept: Accept) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail_at_the_end)
            group.start_soon(anyio.sleep_forever)

    async def fail_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ConnectionError("while closing")

    supervisor = supervise(Scripted(untidy))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.run)
            await anyio.sleep(1)
            supervisor.stop_receiving()
    assert supervisor.state is InterfaceState.STOPPED
    assert "while closing" in caplog.text


# --- messages, through a served agent


async def test_accepted_messages_are_answered_after_receiving_stopped() -> None:
    async def receive(interface: Scripted, accept: Accept) -> None:
        for number in range(3):
            await accept(message(number))
        await anyio.sleep_forever()

    agent, interface = Agent("offline"), Scripted(receive)

    async def slow(context: object) -> None:
        await anyio.sleep(5)

    agent.before_request(slow)
    async with agent.running(interface, enable_server=False) as runtime:
        await anyio.sleep(1)
    assert interface.sent == [(str(number), f"message {number}") for number in range(3)]
    assert runtime.report is not None and runtime.report.clean
    assert runtime.report.sources["scripted"] == WorkCount(completed=3)


async def test_a_cut_off_drain_tells_messages_apart() -> None:
    async def receive(interface: Scripted, accept: Accept) -> None:
        for number in range(5):
            await accept(message(number, chat=f"chat {number // 2}"))
        await anyio.sleep_forever()

    agent, interface = Agent("offline"), Scripted(receive, max_concurrent_requests=2)

    async def slow(context: object) -> None:
        await anyio.sleep(100)

    agent.before_request(slow)
    async with agent.running(interface, enable_server=False, shutdown_timeout=10) as runtime:
        await anyio.sleep(1)
    assert runtime.report is not None
    assert runtime.report.sources["scripted"] == WorkCount(cancelled=2, never_started=3)


async def test_an_answer_that_raises_takes_nothing_along(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_message = Pipeline.answer

    async def answer(pipeline: Pipeline, message: InterfaceMessage) -> MessageEnd:
        if message.platform_message_id == "1":
            raise ZeroDivisionError
        return await answer_message(pipeline, message)

    monkeypatch.setattr(Pipeline, "answer", answer)  # no hook of a user's gets past what the pipeline catches

    async def receive(interface: Scripted, accept: Accept) -> None:
        for number in range(3):
            await accept(message(number))

    agent, interface = Agent("offline"), Scripted(receive)
    async with agent.running(interface, enable_server=False) as runtime:
        await anyio.sleep(1)
    assert [number for number, _ in interface.sent] == ["0", "2"]
    assert runtime.report is not None
    assert runtime.report.sources["scripted"] == WorkCount(completed=3, failed=1)
    assert "message 1 was not answered" in caplog.text
