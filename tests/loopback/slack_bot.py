"""An app for the loopback Slack, served."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio

from definable.agent import Agent
from definable.agent.interface import SlackInterface
from definable.agent.interface.slack.sockets import SocketPolicy
from definable.agent.runtime import AgentRuntime
from definable.concurrency.backoff import Backoff
from definable.testing import served

from .slack import SlackServer

FAST = SocketPolicy(stable_after=0.0, backoff=Backoff(0.01, 0.05))
"""Nothing that a test must wait for."""

Mode = Literal["socket", "events"]


def app_for(server: SlackServer, mode: Mode = "socket", *, hooks: Any = (), **settings: Any) -> SlackInterface:
    """An interface whose Slack is the loopback server."""
    settings = {"bot_token": server.bot_token, "base_url": server.url, "collect": 0.0, **settings}
    settings |= {"app_token": server.app_token} if mode == "socket" else {"signing_secret": server.signing_secret}
    interface = SlackInterface(mode=mode, rate_limit_messages_per_minute=10_000, hooks=hooks, **settings)
    interface.socket_policy = FAST
    return interface


@asynccontextmanager
async def serving(
    agent: Agent, interface: SlackInterface, server: SlackServer, within: float = 30, **options: Any
) -> AsyncGenerator[AgentRuntime]:
    """The agent behind the interface, once Slack reaches it, for so many seconds at most."""
    with anyio.fail_after(within):
        if interface.config.mode == "socket":
            async with agent.running(interface, enable_server=False, **options) as runtime:
                await server.until(lambda: server.on_line)
                yield runtime
        else:
            agent.add_interface(interface)
            async with served(agent, **options) as service:
                server.events_url = f"{service.runtime.url}{interface.config.events_path}"
                while interface._accept is None:  # pyright: ignore[reportPrivateUsage]
                    await anyio.sleep(0.01)
                yield service.runtime
                server.events_url = None
