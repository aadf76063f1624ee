"""`definable demo`: a ready agent, served on the model that needs no network.

`definable init`: a program to start from.
"""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Literal

import click

from definable.agent import Agent
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.concurrency.logs import logger_named

STARTER = '''"""An agent as a service: `python {file}`, or `definable serve {file} --dev` to reload at every save."""

import os

from definable.agent import Agent
from definable.agent.trigger import Cron, TriggerEvent, Webhook


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


agent = Agent(
    # The offline model needs no key; it echoes.
    model="openai/gpt-4o-mini" if os.environ.get("OPENAI_API_KEY") else "offline",
    instructions="You are a helpful assistant.",
    tools=[add],
    name="{name}",
)


@agent.on(Webhook("/hello"))
async def on_hello(event: TriggerEvent) -> str:
    return f"Greet this visitor: {{event.body}}"


@agent.on(Cron("0 9 * * *", timezone="UTC"))
async def every_morning(event: TriggerEvent) -> str:
    return "Wish us a good morning."


if __name__ == "__main__":
    agent.serve(host="127.0.0.1")
'''


@click.command(short_help="Write a program to start from.")
@click.argument("path", type=click.Path(path_type=Path), default=Path("app.py"))
def init(path: Path) -> None:
    """Write a program that runs to PATH: a file, or a directory in which it becomes app.py. Never overwrites."""
    if path.is_dir():
        path /= "app.py"
    if path.suffix != ".py":
        raise click.UsageError(f"{path}: a Python file's name ends in .py, and a directory must be there already")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER.format(file=path.name, name=path.stem))
    except FileExistsError as error:  # the file, or one where a directory would have to be
        raise click.ClickException(f"{error.filename} is there already and stays as it is: give another name") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
    name = shlex.quote(str(path))
    click.echo(f"{path} is written. Serve it, and again at every save:\n\n  definable serve {name} --dev\n")
    click.echo(f'or ask it something:\n\n  definable run {name} "hello"')


logger: logging.Logger = logger_named("definable.demo")


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
