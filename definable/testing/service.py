"""A served agent as a context, with an HTTP client that talks to it over a real port."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Unpack

import httpx2

from definable.agent.agent import Agent
from definable.agent.interface.base import BaseInterface
from definable.agent.runtime.runtime import AgentRuntime
from definable.agent.serve_options import ServeOptions
from definable.errors import ConfigurationError

CLIENT_TIMEOUT = 60.0
"""Seconds: a model may take its time."""


@dataclass(frozen=True, slots=True)
class Served:
    """An agent that is being served."""

    runtime: AgentRuntime
    client: httpx2.AsyncClient
    """Its base URL is the agent's; it uses no proxy."""


@asynccontextmanager
async def served(agent: Agent, *interfaces: BaseInterface, **options: Unpack[ServeOptions]) -> AsyncGenerator[Served]:
    """Serve an agent on a free loopback port while the context is open.

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
        async with httpx2.AsyncClient(base_url=runtime.url, timeout=CLIENT_TIMEOUT, trust_env=False) as client:
            yield Served(runtime, client)
