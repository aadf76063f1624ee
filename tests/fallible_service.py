"""A served agent with a place for every kind of user code, one of which makes a mistake once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from quart import current_app

from definable.agent import Agent, RunContext
from definable.agent.auth import AuthContext, AuthRequest
from definable.agent.interface import (
    Accept,
    BaseInterface,
    IdentityResolver,
    InterfaceConfig,
    InterfaceHook,
    InterfaceMessage,
    InterfaceResponse,
)
from definable.agent.session import MemorySessionStore
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.model import ModelReply, ModelRequest, OfflineModel, ToolCall

LIMIT = 15.0
"""Seconds that a test may hang."""

REQUESTS: dict[str, tuple[str, object]] = {
    "webhook": ("/hook", {}),
    "sync webhook": ("/sync", {}),
    "accepted webhook": ("/accept", {}),
    "route": ("/route", {}),
    "background task": ("/background", {}),
    "auth": ("/run", {"input": "hi"}),
    "model": ("/run", {"input": "hi"}),
    "instructions": ("/run", {"input": "hi"}),
    "session store": ("/run", {"input": "hi", "session_id": "s"}),
    "hook": ("/run", {"input": "hi"}),
    "async tool": ("/run", {"input": "call async_tool"}),
    "sync tool": ("/run", {"input": "call sync_tool"}),
}
"""What brings user code about over HTTP."""

CHAT_PLACES = ("receive", "send", "typing", "complete", "chat hook", "handled", "identity resolver")

SYNC_PLACES = ("sync webhook", "sync tool", "handled")

PLACES = (*REQUESTS, "event", "cron", *CHAT_PLACES)

ASYNC_PLACES = tuple(place for place in PLACES if place not in SYNC_PLACES)

QUIET = ("background task", "hook", "async tool", "sync tool")
"""Where a failure goes no further: the model is told of a tool's, the others are logged."""


@dataclass
class Service:
    """An agent that is served, with one mistake to make once at one place."""

    place: str
    make_mistake: Callable[[], Awaitable[None] | None]
    made: anyio.Event = field(default_factory=anyio.Event)
    """Set when the mistake is about to be made."""
    events: list[str] = field(default_factory=list[str])
    """What was handled after the mistake."""
    came: anyio.Event = field(default_factory=anyio.Event)
    """Set at every entry of `events`."""
    firing: Cron = field(default_factory=lambda: Cron("0 0 1 1 *"))
    """Fired by hand."""

    def sync(self, place: str) -> None:
        """Make the mistake if its place is here, and it was not made yet."""
        if place == self.place and not self.made.is_set():
            self.made.set()
            self.make_mistake()

    async def at(self, place: str) -> None:
        """The same, of async code."""
        if place == self.place and not self.made.is_set():
            self.made.set()
            made = self.make_mistake()
            if made is not None:
                await made

    def note(self, what: str) -> None:
        """Something was handled."""
        self.events.append(what)
        came, self.came = self.came, anyio.Event()
        came.set()

    async def until(self, what: str) -> None:
        """Return once something was handled."""
        with anyio.fail_after(LIMIT):
            while what not in self.events:
                await self.came.wait()


class Model(OfflineModel):
    """Calls the tools that it is asked to call."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    async def reply(self, request: ModelRequest) -> ModelReply:
        await self._service.at("model")
        if self._service.place == "typing":  # a reply ends it
            await self._service.made.wait()
        last = request.messages[-1]
        if last.role == "user" and str(last.content).startswith("call "):
            return ModelReply("", (ToolCall(str(last.content).removeprefix("call "), {}),))
        return ModelReply("done")


class Provider:
    """Lets everybody in."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def authenticate(self, request: AuthRequest) -> AuthContext:
        await self._service.at("auth")
        return AuthContext("somebody")


class Store(MemorySessionStore):
    """A session store of the user's."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    async def load(self, session_id: str) -> Any:
        await self._service.at("session store")
        return await super().load(session_id)


class ChatHook(InterfaceHook):
    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_message_received(self, message: InterfaceMessage) -> None:
        await self._service.at("chat hook")

    async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
        await self._service.at("chat error hook")


class Identities(IdentityResolver):
    """Knows nobody."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def resolve(self, platform: str, platform_user_id: str) -> str | None:
        await self._service.at("identity resolver")
        return None


class Chat(BaseInterface):
    """A chat platform whose messages are those that the test puts in."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            InterfaceConfig(collect=0, platform="chat", rate_limit_messages_per_minute=1_000_000),
            hooks=[ChatHook(service)],
            identity_resolver=Identities(service),
        )
        self._service = service
        self._number = 0
        self._say = anyio.Event()

    def say(self) -> None:
        """Have one more message come."""
        self._say.set()

    async def receive(self, accept: Accept) -> None:
        await self._service.at("receive")
        while True:
            await self._say.wait()
            self._say = anyio.Event()
            self._number += 1
            await accept(InterfaceMessage("chat", "user", "room", str(self._number), text="hello"))

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        await self._service.at("send")
        self._service.note("sent")

    async def typing(self, message: InterfaceMessage) -> None:
        await self._service.at("typing")

    async def complete(self, message: InterfaceMessage) -> InterfaceMessage:
        await self._service.at("complete")
        return message

    def handled(self, message: InterfaceMessage) -> None:
        self._service.sync("handled")


def agent_of(service: Service) -> Agent:
    """An agent with every place in it."""

    async def instructions(context: RunContext) -> str:
        await service.at("instructions")
        return "Be brief."

    async def async_tool() -> str:
        await service.at("async tool")
        return "fine"

    def sync_tool() -> str:
        service.sync("sync tool")
        return "fine"

    agent = Agent(
        Model(service),
        instructions=instructions,
        tools=[async_tool, sync_tool],
        sessions=Store(service),
        auth=Provider(service) if service.place == "auth" else None,
    )

    register_webhooks(agent, service)
    register_others(agent, service)
    return agent


def register_webhooks(agent: Agent, service: Service) -> None:
    @agent.on(Webhook("/hook"))
    async def webhook(event: TriggerEvent) -> None:
        await service.at("webhook")

    @agent.on(Webhook("/sync"))
    def sync_webhook(event: TriggerEvent) -> None:
        service.sync("sync webhook")

    @agent.on(Webhook("/accept", respond="accept"))
    async def accepted(event: TriggerEvent) -> None:
        await service.at("accepted webhook")
        service.note("accepted")


def register_others(agent: Agent, service: Service) -> None:
    @agent.before_request
    async def before(context: RunContext) -> None:
        await service.at("hook")

    @agent.on(EventTrigger("happened"))
    async def event(event: TriggerEvent) -> None:
        await service.at("event")
        service.note("event")

    @agent.on(service.firing)
    async def cron(event: TriggerEvent) -> None:
        await service.at("cron")
        service.note("cron")

    @agent.blueprint.post("/route")
    async def route() -> str:  # pyright: ignore[reportUnusedFunction] - Quart calls it
        await service.at("route")
        return "fine"

    @agent.blueprint.post("/background")
    async def begin() -> str:  # pyright: ignore[reportUnusedFunction] - Quart calls it
        current_app.add_background_task(service.at, "background task")
        return "fine"
