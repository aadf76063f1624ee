"""Everyday mistakes of user code, at every place where user code runs: each fails alone, and is named in the log.

One table, mistakes by places by backends. A served agent meets each mistake once; the next request, event, firing and
message are then served as if nothing had been, and the report tells the truth.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio
from fallible_service import ASYNC_PLACES, LIMIT, PLACES, QUIET, REQUESTS, Chat, Service, agent_of

from definable.agent.runtime import TextFormatter
from definable.testing import Served, served

pytestmark = pytest.mark.anyio


# --- what is raised


class PanicException(BaseException):
    """What an extension written in Rust raises (pyo3): no `Exception`."""


class Speechless(Exception):
    """Its message cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Wordless(Exception):
    """Its message is no string."""

    def __str__(self) -> str:
        return 42  # type: ignore[return-value]


class SpeechlessPanic(BaseException):
    """No `Exception`, and its message cannot be shown."""

    def __str__(self) -> str:
        raise PanicException("no words")

    __repr__ = __str__


class MaskedPanic(BaseException):
    """No `Exception`, though it says so."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return ValueError


def panic() -> None:
    raise PanicException("called `Option::unwrap()` on a `None` value")


def leave() -> None:
    sys.exit(3)


def close() -> None:
    raise GeneratorExit


def speechless() -> None:
    raise Speechless


def wordless() -> None:
    raise Wordless


def speechless_panic() -> None:
    raise SpeechlessPanic


def masked_panic() -> None:
    raise MaskedPanic


def group() -> None:
    raise BaseExceptionGroup("several", [PanicException("one"), ValueError("two")])


def stray_cancellation() -> None:
    raise asyncio.CancelledError


RAISED: dict[str, Callable[[], None]] = {
    "panic": panic,
    "exit": leave,
    "generator exit": close,
    "speechless": speechless,
    "wordless": wordless,
    "speechless panic": speechless_panic,
    "masked panic": masked_panic,
    "group": group,
    "stray cancellation": stray_cancellation,
}
"""What is raised, by sync code and async code alike."""


# --- what is left open


KEPT: list[Any] = []
"""What is kept, as a module of the user's keeps its client."""


@asynccontextmanager
async def client() -> AsyncGenerator[str]:
    """A client with a task of its own, as those of MCP are."""
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        yield "session"
        group.cancel_scope.cancel()


async def numbers() -> AsyncGenerator[int]:
    """Has a time-out open around its `yield`."""
    with anyio.fail_after(60):
        while True:
            yield 1


async def fail() -> None:
    raise ConnectionError("the server hung up")


async def keep_client() -> None:
    """Entered when it is first used, and kept for all."""
    stack = AsyncExitStack()
    KEPT.append(stack)
    await stack.enter_async_context(client())


async def keep_generator() -> None:
    kept = numbers()
    KEPT.append(kept)
    async for _ in kept:
        break


async def keep_scope() -> None:
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def keep_failing_group() -> None:
    group = anyio.create_task_group()
    KEPT.append(group)
    await group.__aenter__()
    group.start_soon(fail)
    await anyio.sleep_forever()


async def lines() -> AsyncGenerator[str]:
    """Has a client open around its `yield`."""
    async with client():
        for line in "ab":
            yield line


async def abandon_generator() -> None:
    async for _ in lines():
        break


async def abandon_generator_and_go_on() -> None:
    """The generator is closed meanwhile, by a task that has not begun it."""
    await abandon_generator()
    for _ in range(50):
        await anyio.lowlevel.checkpoint()


LEFT_OPEN: dict[str, Callable[[], Awaitable[None]]] = {
    "client": keep_client,
    "generator": keep_generator,
    "scope": keep_scope,
    "failing group": keep_failing_group,
}
"""What is left open behind user code."""


ONE_AT_A_TIME = ("receive", "auth")
"""What receives is begun again later and later, and of refused requests only the first few have lines of their own."""


@pytest.mark.parametrize("place", [place for place in PLACES if place not in ONE_AT_A_TIME])
async def test_whatever_user_code_raises_fails_alone(place: str, caplog: pytest.LogCaptureFixture) -> None:
    await fail_alone(place, RAISED, caplog)


@pytest.mark.parametrize("mistake", RAISED)
@pytest.mark.parametrize("place", ONE_AT_A_TIME)
async def test_what_user_code_raises_once_fails_alone(
    place: str, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    await fail_alone(place, {mistake: RAISED[mistake]}, caplog)


@pytest.mark.parametrize("place", PLACES)
async def test_a_failure_of_which_no_log_takes_a_line_fails_alone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: panic())
    for name in ("definable", "asyncio", "concurrent.futures", "trio"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
    monkeypatch.setattr(logging, "raiseExceptions", False)
    service = Service(place, panic)
    chat = Chat(service)
    with anyio.fail_after(LIMIT):
        async with served(agent_of(service), chat) as target:
            await provoke(target, service, chat)
            await all_is_well(target, service, chat)
    assert target.runtime.report is not None and target.runtime.report.clean


@pytest.mark.parametrize("place", [place for place in ASYNC_PLACES if place not in ONE_AT_A_TIME])
async def test_whatever_user_code_leaves_open_fails_alone(place: str, caplog: pytest.LogCaptureFixture) -> None:
    await fail_alone(place, LEFT_OPEN, caplog, says="Agent(lifespan=...)")


@pytest.mark.parametrize("mistake", LEFT_OPEN)
async def test_what_an_auth_provider_leaves_open_fails_alone(mistake: str, caplog: pytest.LogCaptureFixture) -> None:
    await fail_alone("auth", {mistake: LEFT_OPEN[mistake]}, caplog, says="Agent(lifespan=...)")


ABANDONED: dict[str, Callable[[], Awaitable[None]]] = {
    "at the end": abandon_generator,
    "before more work": abandon_generator_and_go_on,
}
"""When user code lets go of a generator."""


@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
@pytest.mark.parametrize("when", ABANDONED)
@pytest.mark.parametrize("place", [place for place in ASYNC_PLACES if place != "receive"])
async def test_a_generator_with_a_task_group_that_is_not_finished_fails_alone(
    place: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    if sniffio.current_async_library() == "asyncio":  # it reports that the generator could not be closed
        asyncio.get_running_loop().set_exception_handler(lambda loop, report: None)
    await fail_alone(place, {when: ABANDONED[when]}, caplog)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("place", [place for place in ASYNC_PLACES if place != "typing"])
async def test_a_time_out_of_asyncio_that_is_left_open_cancels_nothing(place: str) -> None:
    kept = asyncio.timeout(60)

    async def keep_timeout() -> None:
        await kept.__aenter__()

    service = Service(place, keep_timeout)
    chat = Chat(service)
    with anyio.fail_after(LIMIT):
        async with served(agent_of(service), chat) as target:
            await provoke(target, service, chat)
            kept.reschedule(0)
            await all_is_well(target, service, chat)
    assert target.runtime.report is not None and target.runtime.report.clean


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("place", [place for place in ASYNC_PLACES if place != "receive"])
async def test_a_task_that_user_code_cancels_as_its_last_act_takes_nothing_along(place: str) -> None:
    async def cancel_the_own_task() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    service = Service(place, cancel_the_own_task)
    chat = Chat(service)
    with anyio.fail_after(LIMIT):
        async with served(agent_of(service), chat) as target:
            await provoke(target, service, chat)
            await all_is_well(target, service, chat)
    assert target.runtime.report is not None and target.runtime.report.clean


async def fail_alone(
    place: str,
    mistakes: Mapping[str, Callable[[], Awaitable[None] | None]],
    caplog: pytest.LogCaptureFixture,
    says: str = "",
) -> None:
    """Have the mistakes made at a place, one after the other, then see that all is well.

    Args:
        place: Where.
        mistakes: By their names.
        caplog: What is logged.
        says: What the log says of each.
    """
    caplog.set_level(logging.DEBUG, "definable")
    first = next(iter(mistakes))
    service = Service(place, mistakes[first])
    chat = Chat(service)
    async with served(agent_of(service), chat) as target:
        for mistake, make_mistake in mistakes.items():
            if mistake != first:
                caplog.clear()
                service.make_mistake, service.made = make_mistake, anyio.Event()
            with anyio.fail_after(LIMIT):
                status = await provoke(target, service, chat)
                if place in REQUESTS:
                    expected = 202 if place == "accepted webhook" else 200 if place in QUIET else 500
                    assert status == expected, mistake
                assert service.made.is_set(), mistake
                while not is_named(place, caplog.records):  # a background task ends after its request
                    await anyio.sleep(0.01)
                assert says in caplog.text, mistake
                await all_is_well(target, service, chat)
    report = target.runtime.report
    assert report is not None and report.clean
    failed = sum(count.failed for count in report.sources.values())
    assert failed == (0 if place in (*QUIET, "receive", "typing", "handled") else len(mistakes))


async def provoke(target: Served, service: Service, chat: Chat) -> int | None:
    """Have the mistake made; the status of the answer where somebody waits for one."""
    if service.place in REQUESTS:
        path, body = REQUESTS[service.place]
        status = (await target.client.post(path, json=body)).status_code
    else:
        status = None
        if service.place == "event":
            target.runtime.agent.emit("happened")
        elif service.place == "cron":
            await target.runtime.fire(service.firing)
        else:
            chat.say()
    await service.made.wait()
    await target.runtime.tracker.idle()
    if service.place == "background task":  # nobody waits for it
        await anyio.wait_all_tasks_blocked()
    return status


async def all_is_well(target: Served, service: Service, chat: Chat) -> None:
    """Every place works."""
    for place, (path, body) in REQUESTS.items():
        response = await target.client.post(path, json=body)
        assert response.status_code == (202 if place == "accepted webhook" else 200), (place, response.text)
    service.events.clear()
    target.runtime.agent.emit("happened")
    await service.until("event")
    await target.runtime.fire(service.firing)
    await service.until("cron")
    await (await target.client.post("/accept", json={})).aread()
    await service.until("accepted")
    if service.place != "receive":  # it is tried again after a second
        chat.say()
        await service.until("sent")
        health = await target.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "ok")


def is_named(place: str, records: list[logging.LogRecord]) -> bool:
    """Whether the log, as people read it, says that something failed; and every line of it can be written."""
    lines = [TextFormatter().format(record) for record in records]
    return any(record.levelno >= logging.WARNING for record in records) and bool(lines)
