"""A served agent as a context, with an HTTP client that talks to it over a real port.

The servings of one test, behind the fixture `serve_agent` of the pytest plugin.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Unpack

import anyio
import httpx2
from anyio.abc import TaskGroup, TaskStatus

from definable.agent.agent import Agent
from definable.agent.interface.base import BaseInterface
from definable.agent.options import ServeOptions
from definable.agent.runtime.runtime import AgentRuntime
from definable.errors import ConfigurationError


class Serving:
    """One serving: `async with` it while a block lasts, or `await` it to be served until the test ends.

    Args:
        context: Serves the agent while it is open.
        servings: Those of the test.
    """

    def __init__(self, context: AbstractAsyncContextManager[AgentRuntime], servings: Servings) -> None:
        self._context = context
        self._servings = servings
        self._runtime: AgentRuntime | None = None

    def __await__(self) -> Generator[Any, Any, AgentRuntime]:
        return self._servings.keep(self._context).__await__()

    async def __aenter__(self) -> AgentRuntime:
        self._runtime = await self._context.__aenter__()
        return self._runtime

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        handled = await self._context.__aexit__(kind, error, traceback)
        if error is None and self._runtime is not None:  # else the block's own failure is what counts
            check_clean(self._runtime)
        return handled


class Servings:
    """Serves agents until a test ends.

    Each that is awaited has a task of its own in the fixture's task group: the test may have entered a cancel scope or
    a task group by then, which it leaves before the agent is stopped.
    """

    def __init__(self) -> None:
        self._group: TaskGroup | None = None
        self._end = anyio.Event()
        self._kept: list[AgentRuntime] = []
        self._failures: list[Exception] = []

    def begin(self, group: TaskGroup) -> None:
        """The test begins.

        Args:
            group: Of the fixture, around the whole test.
        """
        self._group = group

    def serve(self, agent: Agent, *interfaces: BaseInterface, **options: Unpack[ServeOptions]) -> Serving:
        """Serve an agent, on a free loopback port unless the options say otherwise."""
        options.setdefault("host", "127.0.0.1")
        options.setdefault("port", 0)
        return Serving(agent.running(*interfaces, **options), self)

    async def keep(self, context: AbstractAsyncContextManager[AgentRuntime]) -> AgentRuntime:
        """Serve an agent until the test ends."""
        assert self._group is not None
        runtime: AgentRuntime = await self._group.start(self._hold, context)
        return runtime

    async def _hold(
        self, context: AbstractAsyncContextManager[AgentRuntime], *, task_status: TaskStatus[AgentRuntime]
    ) -> None:
        serves = False
        try:
            async with context as runtime:
                self._kept.append(runtime)
                serves = True
                task_status.started(runtime)
                await self._end.wait()
        except Exception as error:
            if not serves:
                raise
            self._failures.append(error)  # it fails the test at its end, and does not cancel it in its midst

    def end(self) -> None:
        """The test has ended: stop what is served."""
        self._end.set()

    def check(self) -> None:
        """Fail the test when a serving failed or cut something off."""
        for failure in self._failures:
            raise failure
        for runtime in self._kept:
            check_clean(runtime)


def check_clean(runtime: AgentRuntime) -> None:
    """Fail when a serving has cut something off."""
    assert runtime.report is not None and runtime.report.clean, f"{runtime.name} {runtime.report}"


CLIENT_TIMEOUT = 60.0
"""Seconds: a model may take its time."""


@dataclass(frozen=True, slots=True)
class Served:
    """An agent that is being served."""

    runtime: AgentRuntime
    client: httpx2.AsyncClient
    """Its base URL is the agent's; it uses no proxy."""


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Made once: reading the system's certificates takes longer than a test."""
    return httpx2.create_ssl_context(trust_env=False)


@asynccontextmanager
async def served(agent: Agent, *interfaces: BaseInterface, **options: Unpack[ServeOptions]) -> AsyncGenerator[Served]:
    """Serve an agent on a free loopback port, or on the Unix socket of `uds`, while the context is open.

    Args:
        agent: The agent to serve.
        interfaces: Messaging interfaces to serve along with it.
        options: Those of `Agent.serve`.

    Raises:
        ConfigurationError: `enable_server=False`: there is nothing that a client could talk to.

    Example:
        async with served(agent) as service:
            response = await service.client.post("/run", json={"input": "hi"})
            assert response.json()["content"] == "hi"
    """
    if options.get("enable_server") is False:
        raise ConfigurationError("served() gives a client of HTTP: without a server use agent.running(...)")
    options.setdefault("host", "127.0.0.1")
    options.setdefault("port", 0)
    options["enable_server"] = True
    async with agent.running(*interfaces, **options) as runtime:
        assert runtime.url is not None
        uds, url = options.get("uds"), runtime.url
        transport = None
        if uds is not None:
            transport, url = httpx2.AsyncHTTPTransport(uds=os.fspath(uds)), "http://localhost"
        async with httpx2.AsyncClient(
            base_url=url, timeout=CLIENT_TIMEOUT, trust_env=False, verify=_tls_context(), transport=transport
        ) as client:
            yield Served(runtime, client)
