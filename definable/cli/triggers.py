"""`definable triggers`: what sets an agent off, and when next. `definable emit`: an event from outside of the service.

`definable deadletters`: what failed for good.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast
from zoneinfo import ZoneInfo

import anyio
import click

from definable.agent.bus import DeadLetter, EventBus, MemoryBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.bus.base import Submission
from definable.agent.bus.emitter import When, event_body, unrouted
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


@click.command(short_help="Publish an event to a durable bus.")
@click.argument("name")
@click.argument("payload", required=False)
@click.option("--app", "target", metavar="AGENT", help="The agent whose bus it is: `module:agent`, or a file.")
@click.option("--bus", "url", metavar="URL", help="The bus: redis://, rediss://, postgresql://, or an SQLite file.")
@click.option("--agent", metavar="NAME", help="With --bus: the agent's name, if it has one.")
@click.option("--service", metavar="NAME", help="With --bus: its prefix= or service=, if it was given one.")
@click.option("--delay", type=float, metavar="SECONDS", help="Handle it so much later.")
@click.option("--at", metavar="TIME", help="Handle it then: 2026-01-31T09:00+01:00, or Unix seconds.")
@click.option("--key", help="Replace the event that waits for its time under this key.")
def emit(
    name: str,
    payload: str | None,
    target: str | None,
    url: str | None,
    agent: str | None,
    service: str | None,
    delay: float | None,
    at: str | None,
    key: str | None,
) -> None:
    """Publish the event NAME for the service that handles it, from a shell, a cron line or any other program.

    PAYLOAD is JSON, as `agent.emit(NAME, PAYLOAD)` takes it; "-" reads it from standard input. When the command ends
    with status 0 the event is as safe as the bus keeps it, also while no service runs.

    \b
    Examples:
      definable emit order.paid '{"id": 7}' --app app.py
      definable emit report --bus redis://localhost:6379 --agent orders --delay 3600
    """
    if (target is None) == (url is None):
        raise click.UsageError("name the bus: --app AGENT or --bus URL")
    if target is not None and (agent or service):
        raise click.UsageError("--agent and --service say whose events are meant on a --bus; --app says it by itself")
    try:
        when = When.of(delay, time_of(at), key)
        event = unrouted(name, event_body(name, payload_of(payload)), when)
        bus = load_agent(target).bus if target is not None else bus_at(url or "", agent, service)
    except DefinableError as error:
        raise click.ClickException(single_line(str(error))) from error

    async def publish(bus: DurableBus) -> Sequence[bool]:
        return await bus.publish_many([event])

    with_bus(bus, publish)
    click.echo(f"accepted {single_line(name)}")


def time_of(at: str | None) -> datetime | float | None:
    """The time that an option names."""
    if at is None:
        return None
    with suppress(ValueError):
        return float(at)
    try:
        return datetime.fromisoformat(at)
    except ValueError:
        raise click.UsageError(f"--at {at}: 2026-01-31T09:00+01:00, or Unix seconds") from None


def payload_of(text: str | None) -> Any:
    """What the JSON says; None without any."""
    if text is None:
        return None
    given = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"PAYLOAD is no JSON ({error}); a text is written as '\"text\"'") from None


def bus_at(url: str, agent: str | None, service: str | None) -> EventBus:
    """The bus of that URL or file, as an agent of that name has it.

    Raises:
        ConfigurationError: It is no bus's URL.
        MissingExtra: What it needs is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("postgres", "postgresql"):
        bus: PostgresBus | RedisBus = PostgresBus(url, service=service)
    elif separator and scheme != "sqlite":
        bus = RedisBus(url, prefix=service)
    elif Path(path := rest.removeprefix("/") if separator else url).is_file():
        return SQLiteBus(path)
    else:
        raise ConfigurationError(f"--bus {url}: there is no such file; a service makes it when it first serves")
    if service is None:
        bus.belongs_to(agent)
    return bus


@click.group(short_help="List and replay what failed for good.")
def deadletters() -> None:
    """What failed for good on AGENT's durable event bus: list it, replay it; also while the service runs."""


@deadletters.command("list")
@agent_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the data.")
def list_letters(target: str, as_json: bool) -> None:
    """List the dead letters, oldest first."""
    letters = with_bus(load_agent(target).bus, all_letters)
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
    missing = with_bus(load_agent(target).bus, partial(replay_letters, None if every else ids))
    for letter_id in missing:
        click.echo(f"there is no dead letter {letter_id}", err=True)
    if missing:
        raise SystemExit(1)


class DurableBus(Protocol):
    """What the commands need of a bus."""

    async def publish_many(self, submissions: Sequence[Submission]) -> Sequence[bool]: ...

    async def dead_letters(self) -> Sequence[DeadLetter]: ...

    async def replay(self, letter_id: str) -> bool: ...


def with_bus(bus: EventBus | None, work: Callable[[DurableBus], Coroutine[Any, Any, Sequence[Any]]]) -> Sequence[Any]:
    """Do something with a bus that a service may have open; returns what it does, or says why it failed."""
    if bus is None or isinstance(bus, MemoryBus):
        raise click.ClickException(
            "this agent keeps its events in memory, and they end with the process that serves it: "
            'give it a durable bus, such as Agent(..., bus=SQLiteBus("events.db"))'
        )

    async def opened() -> Sequence[Any]:
        with plain_errors():
            if isinstance(bus, SQLiteBus):
                return await work(bus.client())
            async with bus.open():
                return await work(cast("DurableBus", bus))

    try:
        return anyio.run(opened)
    except (DefinableError, OSError) as error:
        raise click.ClickException(single_line(str(error))) from error


async def all_letters(bus: DurableBus) -> Sequence[DeadLetter]:
    """The dead letters."""
    return await bus.dead_letters()


async def replay_letters(ids: Sequence[str] | None, bus: DurableBus) -> Sequence[str]:
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
