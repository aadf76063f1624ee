"""`definable demo`: a ready agent, served on the model that needs no network."""

from __future__ import annotations

import logging
from typing import Literal

import click

from definable.agent import Agent
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook

logger: logging.Logger = logging.getLogger("definable.demo")


def demo_agent() -> Agent:
    """An agent with a webhook, a cron job and an event trigger; it echoes."""
    agent = Agent(model="offline", name="demo")

    @agent.on(Webhook("/github"))
    async def on_github(event: TriggerEvent) -> str:
        agent.emit("github", event.body)
        return f"Summarize this GitHub event: {event.body}"

    @agent.on(EventTrigger("github"))
    async def on_event(event: TriggerEvent) -> None:
        logger.info("event    %s: %s", event.source, event.body)

    @agent.on(Cron("* * * * *"))
    async def every_minute(event: TriggerEvent) -> None:
        logger.info("cron     %s fired", event.source)

    return agent


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to bind.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free one.")
@click.option("--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True)
def demo(host: str, port: int, backend: Literal["asyncio", "trio"]) -> None:
    """Serve a ready agent that needs no key."""
    try:
        demo_agent().serve(host=host, port=port, backend=backend)
    except OSError as error:
        raise click.ClickException(str(error)) from error
