"""What comes in over HTTP: done at once or promised for later, each delivery once, and again when it failed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.auth import AuthContext
from definable.agent.bus import Delivery, EventBufferFull, MemoryBus
from definable.agent.run.context import RunRequest
from definable.agent.runtime.dispatch import Dispatcher
from definable.agent.runtime.ingress import DEDUPE_TTL, Duplicate, InFlight, Ingress
from definable.agent.runtime.runs import RunRegistry
from definable.agent.runtime.triggers import RUNS_KEY, TriggerTable
from definable.agent.trigger import Headers, RawRequest, Reply, TriggerEvent, Webhook
from definable.concurrency.clock import current_clock
from definable.errors import StorageError
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Setup:
    """An ingress, its bus and registry, and a webhook whose handler returns or raises `result`."""

    def __init__(self, *, buffer: int = 10, **options: Any) -> None:
        self.result: Any = "done"
        self.handled: list[TriggerEvent] = []
        self.webhook = Webhook("/hook", **options)
        agent = Agent("offline")
        agent.on(self.webhook)(self._handle)
        self.bus = MemoryBus(buffer)
        self.registry = RunRegistry(agent.runner, 10)
        self.table = TriggerTable(agent.triggers)
        self.ingress = Ingress(self.bus, self.table, self.registry, Dispatcher(self.registry))

    async def _handle(self, event: TriggerEvent) -> Any:
        self.handled.append(event)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def handle(self, event: TriggerEvent, user_id: str | None = None) -> Any:
        return await self.ingress.handle_once(self.webhook, event, user_id, lambda outcome: outcome)

    async def accept(self, event: TriggerEvent, user_id: str | None = None) -> str | Duplicate:
        return await self.ingress.accept(self.webhook, event, user_id)

    async def published(self) -> Delivery:
        with anyio.fail_after(5):
            async with self.bus.consume() as deliveries:
                return await anext(deliveries)


@asynccontextmanager
async def opened(**options: Any) -> AsyncGenerator[Setup, None]:
    setup = Setup(**options)
    async with setup.bus.open():
        yield setup


def event(name: str | None = None) -> TriggerEvent:
    headers = Headers([] if name is None else [(b"X-Id", name.encode())])
    request = RawRequest("POST", "/hook", {}, {}, headers, b'{"n": 1}', None)
    return TriggerEvent({"n": 1}, headers, "POST /hook", 5.0, request)


# --- runs


async def test_an_accepted_run_is_queued_and_published_with_all_that_it_needs() -> None:
    async with opened() as setup:
        auth = AuthContext("ann", {"role": "user"}, scopes=frozenset({"run"}))
        request = RunRequest("hi", "s", "ann", {"k": 1}, run_id="r", auth=auth)
        record = await setup.ingress.accept_run(request, "POST /run")
        assert setup.registry.find("r") is record
        delivery = await setup.published()
    assert delivery.name == RUNS_KEY
    assert delivery.data == {
        "source": "POST /run",
        "timestamp": current_clock().now(),
        "run_id": "r",
        "user_id": "ann",
        "body": {"input": "hi", "session_id": "s", "metadata": {"k": 1}, "keep": False},
        "auth": ["ann", {"role": "user"}, False, ["run"]],
    }


async def test_without_room_nothing_is_accepted_and_nothing_promised() -> None:
    async with opened(buffer=1) as setup:
        await setup.ingress.accept_run(RunRequest("1"), "POST /run")
        with pytest.raises(EventBufferFull, match="nothing was accepted"):
            await setup.ingress.accept_run(RunRequest("2"), "POST /run")
        with pytest.raises(EventBufferFull, match="nothing was accepted"):
            await setup.accept(event())
        assert len(setup.registry.records()) == 1


async def test_a_caller_that_goes_before_its_run_was_accepted_leaves_no_promise() -> None:
    async with opened() as setup:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await setup.ingress.accept_run(RunRequest("hi"), "POST /run")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await setup.accept(event())
        assert list(setup.registry.records()) == []


# --- webhooks that are accepted


async def test_an_accepted_delivery_is_promised_and_published_with_its_request() -> None:
    async with opened(respond="accept") as setup:
        run_id = await setup.accept(event(), "ann")
        assert isinstance(run_id, str)
        record = setup.registry.find(run_id)
        delivery = await setup.published()
    assert record is not None
    assert (record.source, record.user_id) == ("POST /hook", "ann")
    assert delivery.name == setup.table.key_of(setup.webhook)
    assert delivery.data["request"]["path"] == "/hook"
    assert {key: delivery.data[key] for key in ("source", "run_id", "user_id", "dedupe_key")} == {
        "source": "POST /hook",
        "run_id": run_id,
        "user_id": "ann",
        "dedupe_key": None,
    }


async def test_a_repeat_is_accepted_once_for_each_caller_and_promised_once() -> None:
    async with opened(respond="accept", dedupe="X-Id") as setup:
        assert isinstance(await setup.accept(event("1"), "ann"), str)
        assert isinstance(await setup.accept(event("1"), "ann"), Duplicate)
        assert isinstance(await setup.accept(event("1"), "bob"), str)
        assert isinstance(await setup.accept(event("2"), "ann"), str)
        assert len(setup.registry.records()) == 3
        assert (await setup.published()).data["dedupe_key"] is not None


async def test_an_accepted_delivery_is_remembered_for_a_day() -> None:
    assert DEDUPE_TTL == 24 * 60 * 60
    async with opened(respond="accept", dedupe="X-Id") as setup:
        await setup.accept(event("1"))
        await anyio.sleep(DEDUPE_TTL - 1)
        assert isinstance(await setup.accept(event("1")), Duplicate)
        await anyio.sleep(1)
        assert isinstance(await setup.accept(event("1")), str)


# --- webhooks whose senders wait


async def test_a_repeat_is_handled_once() -> None:
    async with opened(dedupe="X-Id") as setup:
        setup.result = 5
        assert (await setup.handle(event("1"))).value == 5
        assert isinstance(await setup.handle(event("1")), Duplicate)
        assert (await setup.handle(event("2"))).value == 5
        assert len(setup.handled) == 2


@pytest.mark.parametrize("dedupe", [None, "X-Id", lambda event: None, lambda event: ""])
async def test_a_delivery_without_a_name_is_handled_each_time(dedupe: Any) -> None:
    async with opened(dedupe=dedupe) as setup:
        for _ in range(2):
            assert (await setup.handle(event())).content == "done"
        assert len(setup.handled) == 2


async def test_a_function_may_name_the_delivery() -> None:
    async with opened(dedupe=lambda event: event.body["n"]) as setup:
        await setup.handle(event())
        assert isinstance(await setup.handle(event()), Duplicate)


@pytest.mark.parametrize(
    ("result", "may_come_again"),
    [
        *[(Reply(status=status), True) for status in (500, 503, 499, 400, 302, 304, 301)],
        *[(Reply(status=status), False) for status in (200, 201, 204, 299)],
        (None, False),
        ("hi", False),
        (5, False),
    ],
)
async def test_what_was_not_answered_2xx_may_come_again(result: Any, may_come_again: bool) -> None:
    async with opened(dedupe="X-Id") as setup:
        setup.result = result
        await setup.handle(event("1"))
        await setup.handle(event("1"))
        assert len(setup.handled) == (2 if may_come_again else 1)


@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_repeat_of_what_is_being_handled_is_told_so_until_it_has_ended(ends_well: bool) -> None:
    async with opened(dedupe="X-Id") as setup:
        begun, go_on = anyio.Event(), anyio.Event()

        async def handler(event: TriggerEvent) -> Reply:
            begun.set()
            await go_on.wait()
            return Reply(status=200 if ends_well else 400)

        setup.webhook.handler = handler
        async with anyio.create_task_group() as group:
            group.start_soon(setup.handle, event("1"))
            await begun.wait()
            for _ in range(2):
                assert isinstance(await setup.handle(event("1")), InFlight)
            setup.webhook.handler = setup._handle
            assert (await setup.handle(event("2"))).content == "done"
            go_on.set()
        assert isinstance(await setup.handle(event("1")), Duplicate) is ends_well
        assert isinstance(await setup.handle(event("1")), Duplicate)


async def test_what_failed_may_come_again() -> None:
    async with opened(dedupe="X-Id") as setup:
        setup.result = ZeroDivisionError()
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await setup.handle(event("1"))
        assert len(setup.handled) == 2


async def test_what_was_cut_off_may_come_again() -> None:
    async with opened(dedupe=lambda event: "1", timeout=None) as setup:
        with anyio.move_on_after(1):
            setup.result = None
            setup.webhook.handler = lambda event: anyio.sleep(10)
            await setup.handle(event())
        setup.webhook.handler = setup._handle
        assert await setup.handle(event()) is None
        assert len(setup.handled) == 1


@pytest.mark.parametrize(("seconds", "is_forgotten"), [(2, True), (60, False)])
async def test_a_bus_that_is_slow_to_forget_what_was_cut_off_is_waited_for_but_not_without_end(
    seconds: float, is_forgotten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(dedupe="X-Id") as setup:
        release = setup.bus.release

        async def slow(key: str) -> None:
            await anyio.sleep(seconds)
            await release(key)

        monkeypatch.setattr(setup.bus, "release", slow)
        setup.webhook.handler = lambda event: anyio.sleep_forever()
        began = anyio.current_time()
        with anyio.move_on_after(1):
            await setup.handle(event("1"))
        assert anyio.current_time() - began <= 1 + 5.5
        setup.webhook.handler = setup._handle
        assert isinstance(await setup.handle(event("1")), InFlight) is not is_forgotten


async def test_what_was_done_is_answered_though_the_bus_fails_to_release_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(dedupe="X-Id") as setup:

        async def fail(key: str) -> None:
            raise StorageError("Redis is away")

        monkeypatch.setattr(setup.bus, "release", fail)
        assert (await setup.handle(event("1"))).content == "done"
    assert "POST /hook: the event bus failed to release a delivery" in caplog.text


async def test_names_of_any_length_are_kept_by_their_digest() -> None:
    async with opened(respond="accept", dedupe="X-Id") as setup:
        await setup.accept(event("x" * 60_000))
        assert isinstance(await setup.accept(event("x" * 60_000)), Duplicate)
        assert isinstance(await setup.accept(event("x" * 60_001)), str)
        assert len((await setup.published()).data["dedupe_key"]) == 40
