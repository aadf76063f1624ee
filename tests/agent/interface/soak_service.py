"""A service with a Telegram and a Discord bot, for the soak: serves so many times, one after the other.

    python soak_service.py asyncio 3 TELEGRAM_URL TELEGRAM_TOKEN DISCORD_URL DISCORD_TOKEN

Prints a line when it is ready, and one with its account when it was stopped.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import anyio
from anyio.abc import TaskStatus

from definable.agent import Agent
from definable.agent.interface import DiscordConfig, DiscordInterface, TelegramConfig, TelegramInterface
from definable.agent.interface.discord import rest
from definable.agent.interface.discord.gateway import ReconnectPolicy
from definable.concurrency.backoff import Backoff
from definable.model import OfflineModel

NO_LIMIT = 1_000_000


def say(what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


class Announcing:
    """Says when the service is ready."""

    def started(self, value: str | None = None) -> None:
        say({"ready": True})


async def main(servings: int, telegram: tuple[str, str], discord: tuple[str, str]) -> None:
    options = {
        "rate_limit_messages_per_minute": NO_LIMIT,
        "collect": 0,
        "max_concurrent_requests": 50,
        "max_session_history": 20,
    }
    bots = (
        TelegramInterface(TelegramConfig(base_url=telegram[0], bot_token=telegram[1], **options)),
        DiscordInterface(DiscordConfig(base_url=discord[0], bot_token=discord[1], **options)),
    )
    bots[1].reconnect_policy = ReconnectPolicy(
        invalid_session_wait=(0, 0.01), identify_interval=0, stable_after=0, backoff=Backoff(0.01, 0.05)
    )
    status: TaskStatus[str | None] = Announcing()
    for _ in range(servings):
        agent = Agent(OfflineModel(latency=0.05))
        report = await agent.aserve(*bots, enable_server=False, shutdown_timeout=300, task_status=status)
        say({name: asdict(count) for name, count in report.sources.items()})


if __name__ == "__main__":
    backend, servings, telegram_url, telegram_token, discord_url, discord_token = sys.argv[1:]
    rest.RETRY_BACKOFF, rest.MAX_TRIES = Backoff(0.01), 20  # the faults come thick
    anyio.run(main, int(servings), (telegram_url, telegram_token), (discord_url, discord_token), backend=backend)
