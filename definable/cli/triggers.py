"""`definable triggers`: what sets an agent off, and when next. `definable deadletters`: what of it failed for good."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import click

from definable.agent import Agent
from definable.agent.bus import DeadLetter, EventBus, MemoryBus, SQLiteBus
from definable.agent.runtime.triggers import all_interfaces, with_webhooks
from definable.agent.trigger.base import BaseTrigger
from definable.agent.trigger.cron import TimeTrigger
from definable.agent.trigger.webhook import Webhook
from definable.concurrency.event_loop import plain_errors
from definable.errors import ConfigurationError, DefinableError

from .target import agent_argument, load_agent, load_target, single_line, table


@click.command(short_help="List an agent's triggers with their next firings.")
@agent_argument
@click.option(
    "--next", "count", type=click.IntRange(1, 100), default=1, show_default=True, help="Firings to show a job."
)
def triggers(target: str, count: int) -> None:
    """List AGENT's triggers; for cron jobs the next firings, in local time and in the job's own zone."""
    loaded = load_target(target)
    try:
        registry = with_webhooks(loaded.agent.triggers, all_interfaces(loaded.agent, loaded.interfaces))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    found = list(registry)
    if not found:
        click.echo(f"{loaded.agent.name} has no triggers: register one, such as @agent.on(Webhook(...))")
        return
    now = time.time()
    rows = [row for trigger in found for row in rows_of(trigger, now, count)]
    click.echo(table(["TRIGGER", "HANDLER", "NEXT (LOCAL TIME)", "NEXT (ITS OWN ZONE)"], rows))


def rows_of(trigger: BaseTrigger, now: float, count: int) -> Iterator[list[str]]:
    """A trigger's lines in the table: one, or one for each firing shown."""
    name = f"{trigger.source} (public)" if isinstance(trigger, Webhook) and trigger.auth is False else trigger.source
    handler = getattr(trigger.handler, "__qualname__", repr(trigger.handler))
    if not isinstance(trigger, TimeTrigger):
        yield [name, handler, "", ""]
        return
    firings = trigger.upcoming(count, now)
    if not firings:
        yield [name, handler, trigger.when, ""]
        return
    zone = "" if trigger.timezone == "UTC" else f" {trigger.timezone}"
    for index, due in enumerate(firings):
        instant = datetime.fromtimestamp(due, UTC)
        local, own = instant.astimezone(), instant.astimezone(ZoneInfo(trigger.timezone))
        first = index == 0
        yield [name if first else "", handler if first else "", spelled(local), f"{spelled(own)}{zone}"]


def spelled(when: datetime) -> str:
    """A date and time of day, with the abbreviation of its zone."""
    return f"{when:%a %Y-%m-%d %H:%M:%S %Z}"


@click.group(short_help="List and replay what failed for good.")
def deadletters() -> None:
    """What failed for good on AGENT's durable event bus: list it, replay it.

    An SQLiteBus belongs to one process: its letters are listed while the service runs, and replayed when it is stopped,
    to be handled when it serves again.
    """


@deadletters.command("list")
@agent_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the data.")
def list_letters(target: str, as_json: bool) -> None:
    """List the dead letters, oldest first."""
    agent = load_agent(target)
    letters = (
        run_plainly(agent.bus.read_dead_letters) if isinstance(agent.bus, SQLiteBus) else with_bus(agent, all_letters)
    )
    if as_json:
        for letter in letters:
            line = json.dumps(fields_of(letter), ensure_ascii=False, separators=(",", ":"), default=str)
            click.echo(line.encode(errors="backslashreplace"))  # half of a surrogate pair as JSON escapes it
    elif letters:
        click.echo(table(["ID", "DIED", "TRIGGER", "ATTEMPTS", "WHY"], [row_of(letter) for letter in letters]))
    else:
        click.echo("there are no dead letters")


@deadletters.command()
@agent_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
def replay(target: str, ids: tuple[str, ...], every: bool) -> None:
    """Accept dead letters anew, as first attempts. Exits with status 1 when there is none of an ID."""
    if every == bool(ids):
        raise click.UsageError("name the letters to replay by their IDs, or give --all")
    missing = with_bus(load_agent(target), partial(replay_letters, None if every else ids))
    for letter_id in missing:
        click.echo(f"there is no dead letter {letter_id}", err=True)
    if missing:
        raise SystemExit(1)


def with_bus(agent: Agent, work: Callable[[EventBus], Coroutine[Any, Any, Sequence[Any]]]) -> Sequence[Any]:
    """Do something with the agent's bus, open."""
    bus = agent.bus
    if bus is None or isinstance(bus, MemoryBus):
        raise click.ClickException(
            "this agent keeps its events in memory, and its dead letters end with the process that served it: "
            'give it a durable bus, such as Agent(..., bus=SQLiteBus("events.db"))'
        )

    async def opened() -> Sequence[Any]:
        async with bus.open():
            return await work(bus)

    return run_plainly(opened)


def run_plainly(work: Callable[[], Coroutine[Any, Any, Sequence[Any]]]) -> Sequence[Any]:
    """What it returns; of an error, what it says."""

    async def plainly() -> Sequence[Any]:
        with plain_errors():
            return await work()

    try:
        return anyio.run(plainly)
    except (DefinableError, OSError) as error:
        raise click.ClickException(single_line(str(error))) from error


async def all_letters(bus: EventBus) -> Sequence[DeadLetter]:
    """The dead letters."""
    return await bus.dead_letters()


async def replay_letters(ids: Sequence[str] | None, bus: EventBus) -> Sequence[str]:
    """Replay these, or all; returns those that there are none of."""
    missing: list[str] = []
    wanted = [letter.id for letter in await bus.dead_letters()] if ids is None else ids
    for letter_id in wanted:
        if await bus.replay(letter_id):
            click.echo(f"replayed {letter_id}")
        else:
            missing.append(letter_id)
    if not wanted:
        click.echo("there are no dead letters")
    return missing


def row_of(letter: DeadLetter) -> list[str]:
    """A letter's line in the table."""
    died = f"{datetime.fromtimestamp(letter.died_at).astimezone():%Y-%m-%d %H:%M:%S}"
    return [letter.id, died, str(letter.data.get("source") or letter.name), str(letter.attempt), letter.why]


def fields_of(letter: DeadLetter) -> dict[str, Any]:
    """A letter as JSON shows it."""
    return {
        "id": letter.id,
        "name": letter.name,
        "attempt": letter.attempt,
        "why": letter.why,
        "died_at": letter.died_at,
        "data": dict(letter.data),
    }
