"""A bot for the loopback Discord, served."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from definable.agent import Agent
from definable.agent.interface import DiscordConfig, DiscordInterface, InterfaceMessage
from definable.agent.interface.discord.gateway import ReconnectPolicy
from definable.agent.interface.message_json import message_from_json, message_to_json
from definable.agent.runtime import AgentRuntime
from definable.concurrency.backoff import Backoff

from .discord_objects import TOKEN
from .discord_server import DiscordServer

GUILD = "500"
"""A server."""

FAST = ReconnectPolicy(
    invalid_session_wait=(0.0, 0.01), identify_interval=0.0, stable_after=0.0, backoff=Backoff(0.01, 0.05)
)
"""Nothing that a test must wait for."""


def bot_for(server: DiscordServer, **changes: Any) -> DiscordInterface:
    """An interface whose Discord is the loopback server."""
    settings: dict[str, Any] = {"bot_token": TOKEN, "base_url": server.url, "connect_timeout": 5}
    settings |= {"rate_limit_messages_per_minute": 10_000, "collect": 0}
    interface = DiscordInterface(DiscordConfig(**settings | changes))
    interface.reconnect_policy = FAST
    return interface


@asynccontextmanager
async def serving(agent: Agent, interface: DiscordInterface, within: float = 30) -> AsyncGenerator[AgentRuntime, None]:
    """The agent behind the interface, for so many seconds at most."""
    with anyio.fail_after(within):
        async with agent.running(interface, enable_server=False) as runtime:
            yield runtime


@asynccontextmanager
async def listening(
    server: DiscordServer, **config: Any
) -> AsyncGenerator[tuple[DiscordInterface, list[InterfaceMessage]], None]:
    """A bot that hears, and what it hears; a durable bus could keep all of it."""
    heard: list[InterfaceMessage] = []

    async def accept(message: InterfaceMessage) -> bool:
        assert message_from_json(message_to_json(message)) == message
        heard.append(message)
        return True

    with anyio.fail_after(30):
        async with server.running(), (bot := bot_for(server, **config)).opened(), anyio.create_task_group() as tasks:
            tasks.start_soon(bot.receive, accept)
            await server.until(lambda: server.on_line)
            yield bot, heard
            tasks.cancel_scope.cancel()
