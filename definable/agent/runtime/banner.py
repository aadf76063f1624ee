"""What a served agent says of itself when it starts, and the warnings that belong there: pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from definable.agent.auth.base import speaks_on
from definable.agent.interface.pipeline import guard_of
from definable.agent.trigger.cron import TimeTrigger
from definable.concurrency.event_loop import current_backend

from .logging import Block

if TYPE_CHECKING:
    from definable.agent.auth.base import AuthProvider

    from .runtime import AgentRuntime
    from .supervisor import Supervisor


def banner(runtime: AgentRuntime) -> Block:
    """The lines that a start logs."""
    agent = runtime.agent
    lines = [f"{runtime.name} on {agent.model.id} ({current_backend()})", *_endpoints(runtime)]
    lines += [f"{job.kind:<8} {_next_firing(job, runtime)}" for job in runtime.triggers.crons]
    lines += [f"event    {trigger.pattern}" for trigger in runtime.triggers.events]
    lines += [
        f"chat     {supervisor.interface.name} ({_writers(supervisor, runtime)})" for supervisor in runtime.supervisors
    ]
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
    guarded = [webhook for webhook in runtime.triggers.webhooks if webhook.auth]
    if runtime.http is not None and agent.auth is None and guarded:
        sources = ", ".join(webhook.source for webhook in guarded)
        yield (
            f"agent.auth is not set: whoever reaches {sources}, which has an auth of its own, may call /run, /runs and "
            "/sessions without any. Set agent.auth, such as APIKeyAuth(keys)"
        )
    if runtime.http is None and runtime.triggers.webhooks:
        paths = ", ".join(webhook.path for webhook in runtime.triggers.webhooks)
        yield f"enable_server=False, and nothing else takes requests: none will come to the webhooks {paths}"
    if runtime.url is not None and agent.auth is not None and not speaks_on(agent.auth, "http"):
        yield (
            f"agent.auth is {agent.auth!r}, which lets in nobody over HTTP: endpoints without an auth of their own "
            "answer 401. Add a provider for HTTP: CompositeAuth(APIKeyAuth(keys), ...)"
        )
    yield from _chat_warnings(runtime)
    if not getattr(agent.model, "has_key", True):
        yield f"the model {agent.model.id} has no API key: every run will fail until one is set"


def _chat_warnings(runtime: AgentRuntime) -> Iterator[str]:
    """Chats that everybody may write to although the agent has an auth provider, and those that nobody may."""
    for supervisor in runtime.supervisors:
        interface = supervisor.interface
        platform = interface.config.platform or interface.name
        provider = (interface.agent or runtime.agent).auth
        if interface.auth is None and provider is not None and not interface.has_allow_list:
            if guard_of(None, provider, platform) is None:
                yield (
                    f"{supervisor.name} is open to everybody who can write there: agent.auth is {provider!r}, which "
                    f"does not judge the users of {platform}. Close it with auth=AllowlistAuth(user_ids) of the "
                    "interface, or say auth=False there if it is meant"
                )
        elif interface.auth and not speaks_on(interface.auth, platform):
            yield f"{supervisor.name} answers nobody: its auth={interface.auth!r} does not know users of {platform}"


def callers(provider: AuthProvider | Literal[False] | None) -> str:
    """Whom a provider lets in, in a word or two."""
    return type(provider).__name__ if provider else "public"


def _writers(supervisor: Supervisor, runtime: AgentRuntime) -> str:
    """Who may write in a chat."""
    interface = supervisor.interface
    agents = (interface.agent or runtime.agent).auth
    provider = guard_of(interface.auth, agents, interface.config.platform or interface.name)
    return "allow-list" if provider is None and interface.has_allow_list else callers(provider)


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
    yield f"api      /run, /runs, /sessions ({callers(runtime.agent.auth)})"
    for webhook in runtime.triggers.webhooks:
        provider = runtime.agent.auth if webhook.auth is None else webhook.auth
        yield f"webhook  {webhook.source} ({callers(provider)})"


def _next_firing(job: TimeTrigger, runtime: AgentRuntime) -> str:
    due = runtime.cron_loop.next_firing(job)
    if job.fires_once:
        return job.when
    if due is None:
        return f"{job.when} {job.timezone}"
    when = datetime.fromtimestamp(due, UTC).astimezone(ZoneInfo(job.timezone))
    return f"{job.when}  next {when:%Y-%m-%d %H:%M:%S %Z}"
