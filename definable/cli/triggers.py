"""`definable triggers`: what sets an agent off, and when next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click

from definable.agent.runtime.interfaces import all_interfaces, with_webhooks
from definable.agent.trigger.base import BaseTrigger
from definable.agent.trigger.cron import TimeTrigger
from definable.agent.trigger.webhook import Webhook
from definable.errors import ConfigurationError

from .options import agent_argument, table
from .target import load_target


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
