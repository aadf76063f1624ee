"""What a served agent says of itself when it starts, and the warnings that belong there: pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from definable.agent.event_loop import current_backend
from definable.agent.trigger.cron import Cron

from .log_text import Block

if TYPE_CHECKING:
    from .runtime import AgentRuntime


def banner(runtime: AgentRuntime) -> Block:
    """The lines that a start logs."""
    agent = runtime.agent
    lines = [f"{runtime.name} on {agent.model.id} ({current_backend()})", *_endpoints(runtime)]
    lines += [f"cron     {_next_firing(job, runtime)}" for job in runtime.triggers.crons]
    lines += [f"event    {trigger.pattern}" for trigger in runtime.triggers.events]
    lines += [f"chat     {supervisor.interface.name}" for supervisor in runtime.supervisors]
    lines.append(f"auth     {'none' if agent.auth is None else type(agent.auth).__name__}")
    if runtime.url is not None:
        lines.append(f"try      {curl(runtime, runtime.url)}")
    return Block("\n  ".join(lines))


def curl(runtime: AgentRuntime, url: str) -> str:
    """A command that has the agent answer."""
    header = "" if runtime.agent.auth is None else " -H 'Authorization: Bearer <credentials>'"
    return f"""curl {url}/run -H 'Content-Type: application/json'{header} -d '{{"input": "hello"}}'"""


def warnings(runtime: AgentRuntime) -> Iterator[str]:
    """What the one who starts the service should know at once."""
    agent, host = runtime.agent, runtime.settings.host
    if runtime.url is not None and agent.auth is None and not is_loopback(host):
        yield f"{host} can be reached from other machines and agent.auth is not set: anybody may use this agent"
    if runtime.http is None and runtime.triggers.webhooks:
        paths = ", ".join(webhook.path for webhook in runtime.triggers.webhooks)
        yield f"enable_server=False, and nothing else takes requests: none will come to the webhooks {paths}"
    if not getattr(agent.model, "has_key", True):
        yield f"the model {agent.model.id} has no API key: every run will fail until one is set"


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _endpoints(runtime: AgentRuntime) -> Iterator[str]:
    if runtime.url is None:
        return
    yield f"http     {runtime.url}"
    if runtime.settings.dev:
        yield f"docs     {runtime.url}/docs"
    for webhook in runtime.triggers.webhooks:
        public = " (public)" if webhook.auth is False else ""
        yield f"webhook  {webhook.method} {webhook.path}{public}"


def _next_firing(job: Cron, runtime: AgentRuntime) -> str:
    due = runtime.cron_loop.next_firing(job)
    if due is None:
        return f"{job.schedule} {job.timezone}"
    when = datetime.fromtimestamp(due, UTC).astimezone(ZoneInfo(job.timezone))
    return f"{job.schedule}  next {when:%Y-%m-%d %H:%M:%S %Z}"
