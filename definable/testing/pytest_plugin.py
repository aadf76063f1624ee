"""A pytest plugin, active wherever definable is installed: fixtures for tests of agents.

It defines nothing but fixtures and a marker, and loads what they need when they are asked for. Async tests need anyio's
own plugin, which comes with anyio: `@pytest.mark.anyio`, and an `anyio_backend` fixture that says where they run.

```python
@pytest.fixture
def anyio_backend(virtual_backend):     # both backends, in virtual time
    return virtual_backend


@pytest.mark.anyio
@pytest.mark.virtual_start("2026-03-29T00:00:00+01:00")
async def test_the_report_is_written_every_night(serve_agent):
    async with serve_agent(agent, enable_server=False) as runtime:
        await anyio.sleep(24 * 3600)
    ...
```

`runtime = await serve_agent(agent)` serves until the test ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Protocol, Unpack

import pytest

if TYPE_CHECKING:
    from definable.agent.agent import Agent
    from definable.agent.interface.base import BaseInterface
    from definable.agent.options import ServeOptions
    from definable.model.offline import OfflineModel

    from .service import Serving
    from .virtual import Backend, VirtualClock


class ServeAgent(Protocol):
    """Serves an agent while a block lasts, or until the test ends."""

    def __call__(self, agent: Agent, *interfaces: BaseInterface, **options: Unpack[ServeOptions]) -> Serving:
        """Serve an agent, on a free loopback port unless the options say otherwise.

        Args:
            agent: The agent.
            interfaces: Messaging interfaces to serve along with it.
            options: Those of `Agent.serve`.

        Returns:
            To be entered, `async with serve_agent(agent) as runtime`, or awaited, `runtime = await serve_agent(agent)`:
            what serves it, once it is ready, with its `url`, and its `report` afterwards.
        """
        ...


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_start(start): what the wall clock of `virtual_backend` says at first")


@pytest.fixture(params=["asyncio", "trio"])
def virtual_backend(request: pytest.FixtureRequest) -> Generator[Backend]:
    """Both backends in virtual time: what an `anyio_backend` fixture returns.

    The wall clock begins where the marker `virtual_start` says (see `definable.testing.virtual_time`).
    """
    from .virtual import DEFAULT_START, virtual_time  # loads the runtime, which most test sessions never need

    marker = request.node.get_closest_marker("virtual_start")
    with virtual_time(request.param, start=DEFAULT_START if marker is None else marker.args[0]) as backend:
        yield backend


@pytest.fixture
def virtual_clock(virtual_backend: Backend) -> VirtualClock:
    """The virtual wall clock, to step it as NTP does."""
    from .virtual import virtual_clock

    return virtual_clock()


@pytest.fixture
def offline_model() -> OfflineModel:
    """A model that needs no network: it echoes, and records what it was asked in `requests`."""
    from definable.model.offline import OfflineModel

    return OfflineModel()


@pytest.fixture
async def serve_agent(anyio_backend: object) -> AsyncGenerator[ServeAgent]:
    """Serves agents while a block lasts or until the test ends; they must stop cleanly, or the test fails.

    May be used within `fail_after` and within a task group.
    """
    import anyio  # most test sessions never need them

    from .service import Servings

    # anyio's plugin runs an async fixture and its test in one task, so the group is left where it was entered.
    servings = Servings()
    async with anyio.create_task_group() as group:
        servings.begin(group)
        yield servings.serve
        servings.end()
    servings.check()
