"""What a served agent says of itself when it starts, and the warnings that belong there: pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from definable.agent.auth.base import speaks_on
from definable.agent.interface.admission import guard_of
from definable.concurrency.event_loop import current_backend

from .logging import Block

if TYPE_CHECKING:
    from definable.agent.auth.base import AuthProvider
    from definable.agent.interface.base import BaseInterface
    from definable.agent.trigger.base import BaseTrigger
    from definable.agent.trigger.cron import TimeTrigger
    from definable.agent.trigger.event import EventTrigger
    from definable.agent.trigger.webhook import Webhook
    from definable.model.message import Model

    from .settings import ServeSettings


UNIX = "unix:"
"""Before the path of a Unix socket, in place of a URL."""


@dataclass(frozen=True, slots=True)
class ServedChat:
    """An interface that is served."""

    name: str
    """In reports and logs."""
    interface: BaseInterface
    agent_auth: AuthProvider | None
    """Of the agent that answers."""

    @property
    def platform(self) -> str:
        """By which name auth providers know it."""
        return "http" if self.interface.has_http_users else self.interface.config.platform or self.interface.name

    @property
    def auth_provider(self) -> AuthProvider | None:
        """Who decides who may write; None: everybody may."""
        return guard_of(self.interface.auth, self.agent_auth, self.platform)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSummary:
    """What is served, where and for whom."""

    name: str
    model: Model
    auth: AuthProvider | None
    """Of the agent."""
    settings: ServeSettings
    url: str | None
    """Where we listen for HTTP; None where we do not."""
    exposed_at: str | None
    """The address at which other machines may reach it; None where none do."""
    takes_requests: bool
    """Whether HTTP is answered, also where another server listens."""
    webhooks: Sequence[Webhook]
    events: Sequence[EventTrigger]
    alike: Sequence[Sequence[BaseTrigger]]
    """Triggers that nothing tells apart but the order of their registration."""
    jobs: Sequence[tuple[TimeTrigger, float | None]]
    """Each with its next firing in Unix seconds; None when there is none."""
    chats: Sequence[ServedChat]


def banner(service: ServiceSummary) -> Block:
    """The lines that a start logs."""
    lines = [f"{service.name} on {service.model.id} ({current_backend()})", *_endpoints(service)]
    lines += [f"{job.kind:<8} {_next_firing(job, due)}" for job, due in service.jobs]
    lines += [f"event    {trigger.pattern}" for trigger in service.events]
    lines += [f"chat     {chat.interface.name} ({_writers(chat)})" for chat in service.chats]
    lines.append(f"auth     {'none' if service.auth is None else type(service.auth).__name__}")
    if service.url is not None:
        has_auth = service.auth is not None
        lines.append(f"try      {_curl(service.url, has_auth=has_auth, secure=service.settings.certfile is not None)}")
    return Block("\n  ".join(lines))


def warnings(service: ServiceSummary) -> Iterator[str]:
    """What the one who starts the service should know at once."""
    if service.exposed_at is not None and service.auth is None:
        yield (
            f"{service.exposed_at} can be reached from other machines and agent.auth is not set: anybody may use this "
            "agent"
        )
    guarded = [webhook for webhook in service.webhooks if webhook.auth]
    if service.takes_requests and service.auth is None and guarded:
        sources = ", ".join(webhook.source for webhook in guarded)
        yield (
            f"agent.auth is not set: whoever reaches {sources}, which has an auth of its own, may call /run, /runs and "
            "/sessions without any. Set agent.auth, such as APIKeyAuth(keys)"
        )
    if not service.takes_requests and service.webhooks:
        paths = ", ".join(webhook.path for webhook in service.webhooks)
        yield f"enable_server=False, and nothing else takes requests: none will come to the webhooks {paths}"
    if service.url is not None and service.auth is not None and not speaks_on(service.auth, "http"):
        yield (
            f"agent.auth is {service.auth!r}, which lets in nobody over HTTP: endpoints without an auth of their own "
            "answer 401. Add a provider for HTTP: CompositeAuth(APIKeyAuth(keys), ...)"
        )
    for chat in service.chats:
        yield from _chat_warnings(chat)
    if service.alike:
        examples = ", ".join(f"{len(same)} of {same[0].source}" for same in service.alike[:3])
        yield (
            f"{sum(map(len, service.alike))} triggers cannot be told apart ({examples}): on a durable bus, restarts "
            "and replicas tell them by the order of their registration, which may change. Give each a name='...'"
        )
    if not getattr(service.model, "has_key", True):
        yield f"the model {service.model.id} has no API key: every run will fail until one is set"


def _chat_warnings(chat: ServedChat) -> Iterator[str]:
    """Whether everybody may write there although the agent has an auth provider, or nobody may."""
    interface, platform, provider = chat.interface, chat.platform, chat.agent_auth
    if interface.auth is None and provider is not None and not interface.has_allow_list and chat.auth_provider is None:
        yield (
            f"{chat.name} is open to everybody who can write there: agent.auth is {provider!r}, which does not judge "
            f"the users of {platform}. Close it with auth=AllowlistAuth(user_ids) of the interface, or say auth=False "
            "there if it is meant"
        )
    elif interface.auth and not speaks_on(interface.auth, platform):
        yield f"{chat.name} answers nobody: its auth={interface.auth!r} does not know users of {platform}"


def _endpoints(service: ServiceSummary) -> Iterator[str]:
    if service.url is None:
        return
    yield f"http     {service.url}"
    if service.settings.dev:
        yield f"docs     {'' if service.url.startswith(UNIX) else service.url}/docs"
    yield f"api      /run, /runs, /sessions ({_callers(service.auth)})"
    for webhook in service.webhooks:
        provider = service.auth if webhook.auth is None else webhook.auth
        yield f"webhook  {webhook.source} ({_callers(provider)})"


def _callers(provider: AuthProvider | Literal[False] | None) -> str:
    return type(provider).__name__ if provider else "public"


def _writers(chat: ServedChat) -> str:
    return (
        "allow-list" if chat.auth_provider is None and chat.interface.has_allow_list else _callers(chat.auth_provider)
    )


def _next_firing(job: TimeTrigger, due: float | None) -> str:
    if job.fires_once:
        return job.when
    if due is None:
        return f"{job.when} {job.timezone}"
    when = datetime.fromtimestamp(due, UTC).astimezone(ZoneInfo(job.timezone))
    return f"{job.when}  next {when:%Y-%m-%d %H:%M:%S %Z}"


def _curl(url: str, *, has_auth: bool, secure: bool) -> str:
    header = " -H 'Authorization: Bearer <credentials>'" if has_auth else ""
    if url.startswith(UNIX):
        url = f"--unix-socket {shlex.quote(url.removeprefix(UNIX))} {'https' if secure else 'http'}://localhost"
    return f"""curl {url}/run -H 'Content-Type: application/json'{header} -d '{{"input": "hello"}}'"""
