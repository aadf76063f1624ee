"""What a stop waits for, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from definable.agent import Agent, RunContext
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.runtime import WorkCount
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent
from definable.concurrency.clock import current_clock
from definable.model import OfflineModel
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class SlowToStop(BaseInterface):
    """Hears one more message while it stops receiving."""

    def __init__(self) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="slow"))
        self.answers: list[str | None] = []

    async def receive(self, accept: Accept) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
                await accept(InterfaceMessage("slow", "ann", "home", "1", text="wait!"))

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.answers.append(response.content)


async def test_a_message_that_an_interface_hears_on_its_way_out_is_answered() -> None:
    interface = SlowToStop()
    async with Agent("offline").running(interface, enable_server=False) as runtime:
        await anyio.sleep(1)
    assert interface.answers == ["wait!"]
    assert runtime.report is not None
    assert runtime.report.sources["slow"] == WorkCount(completed=1)
    assert runtime.report.duration == pytest.approx(5, abs=0.1)


async def test_what_such_a_message_sets_off_is_finished_too() -> None:
    agent, finished = Agent("offline"), list[float]()

    @agent.before_request
    async def tell(context: RunContext) -> None:
        agent.emit("heard")

    @agent.on(EventTrigger("heard"))
    async def heard(event: TriggerEvent) -> None:
        await anyio.sleep(3)
        finished.append(anyio.current_time())

    async with agent.running(SlowToStop(), enable_server=False) as runtime:
        await anyio.sleep(1)
    assert len(finished) == 1
    assert runtime.report is not None and runtime.report.clean


async def test_a_cron_firing_that_jitter_holds_back_is_finished_too() -> None:
    agent, fired = Agent("offline"), list[float]()

    @agent.on(Cron("0 * * * *", jitter=1800))
    async def job(event: TriggerEvent) -> None:
        await anyio.sleep(5)
        fired.append(event.timestamp)

    async with agent.running(enable_server=False) as runtime:
        [cron] = runtime.cron_loop.jobs
        nominal = runtime.cron_loop.next_firing(cron)
        assert nominal is not None
        await anyio.sleep(nominal - current_clock().now() + 0.5)
    assert fired == [nominal]
    assert runtime.report.sources["cron"] == WorkCount(completed=1)


async def test_an_interface_that_does_not_stop_is_waited_for_as_long_as_the_grace_lasts() -> None:
    class NeverStops(SlowToStop):
        async def receive(self, accept: Accept) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(50)

    async with Agent("offline").running(NeverStops(), enable_server=False, shutdown_timeout=20) as runtime:
        await anyio.sleep(1)
    assert runtime.report is not None
    assert 20 <= runtime.report.duration <= 51


async def test_an_interface_takes_its_leave_of_the_platform_before_the_end() -> None:
    class Polite(SlowToStop):
        has_left = False

        @asynccontextmanager
        async def connection(self) -> AsyncGenerator[None, None]:
            yield
            await anyio.sleep(3)
            self.has_left = True

    interface = Polite()
    async with Agent("offline").running(interface, enable_server=False) as runtime:
        await anyio.sleep(1)
    assert interface.has_left
    assert runtime.report is not None
    assert runtime.report.duration == pytest.approx(5 + 3, abs=0.1)


class SlowToClose(OfflineModel):
    """Closes its connections, after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.closed_at: float | None = None

    async def aclose(self) -> None:
        await anyio.sleep(self._seconds)
        self.closed_at = anyio.current_time()


@pytest.mark.parametrize(("seconds", "closes"), [(4.5, True), (60, False)])
async def test_a_models_connections_are_closed_also_when_cancelled_but_not_waited_for_without_end(
    seconds: float, closes: bool
) -> None:
    model = SlowToClose(seconds)
    with anyio.CancelScope() as scope:
        async with Agent(model).running(enable_server=False):
            scope.cancel()
            cancelled_at = anyio.current_time()
            await anyio.sleep_forever()
    assert anyio.current_time() - cancelled_at <= 5.5
    assert (model.closed_at is not None) is closes
