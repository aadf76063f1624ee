"""What interfaces are handed when they are served, and what they bring along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.run.context import RunRequest
from definable.agent.run.output import RunEvent
from definable.agent.runtime.runs import RunRegistry
from definable.agent.runtime.supervisor import handle_for, unused
from definable.agent.runtime.triggers import with_webhooks
from definable.agent.trigger import TriggerEvent, Webhook
from definable.agent.trigger.base import Handler
from definable.errors import ConfigurationError, RouteConflict
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio


class Chat(BaseInterface):
    def __init__(self, agent: Agent | None = None, path: str | None = None) -> None:
        super().__init__(InterfaceConfig("chat", collect=0), agent=agent)
        self._path = path

    def webhooks(self) -> Sequence[tuple[Webhook, Handler]]:
        return [] if self._path is None else [(Webhook(self._path), self._hear)]

    async def _hear(self, event: TriggerEvent) -> None: ...

    async def receive(self, accept: Accept) -> None: ...

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None: ...


class Answer(BaseModel):
    text: str


@pytest.mark.parametrize("brings_its_own", [True, False])
async def test_its_own_agent_answers_else_the_one_that_is_served(brings_its_own: bool) -> None:
    served, own = Agent(OfflineModel(["served"] * 2)), Agent(OfflineModel(["own"] * 2))
    registry, heard = RunRegistry(served.runner, 10), list[RunEvent]()
    handle = handle_for(Chat(own if brings_its_own else None), served, registry)
    answering = own if brings_its_own else served
    assert handle.sessions is answering.runner.sessions
    output = await handle.run(RunRequest("hi", run_id="r"))
    assert output.content == ("own" if brings_its_own else "served")
    record = registry.find("r")
    assert record is not None and record.source == "chat"

    async def listen(event: RunEvent) -> None:
        heard.append(event)

    assert handle.can_stream
    assert (await handle.run(RunRequest("hi"), listen)).content == output.content
    assert heard


async def test_its_runs_wait_for_a_place() -> None:
    agent = Agent(OfflineModel(latency=0.01))
    handle = handle_for(Chat(), agent, RunRegistry(agent.runner, 1))

    async def listen(event: RunEvent) -> None: ...

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(handle.run, RunRequest("hi"))
            group.start_soon(handle.run, RunRequest("hi"), listen)


def test_what_has_a_shape_is_not_streamed() -> None:
    shaped, plain = Agent("offline", output_type=Answer), Agent("offline")
    registry = RunRegistry(plain.runner, 10)
    assert not handle_for(Chat(), shaped, registry).can_stream
    assert handle_for(Chat(plain), shaped, registry).can_stream


def test_auth_may_be_set_after_serving_began() -> None:
    agent = Agent("offline")
    handle = handle_for(Chat(), agent, RunRegistry(agent.runner, 10))
    assert handle.auth() is None
    agent.auth = APIKeyAuth("key")
    assert handle.auth() is agent.auth


def test_a_name_that_is_taken_gets_the_first_number_that_is_not() -> None:
    assert unused("chat", {"http"}) == "chat"
    assert unused("chat", {"chat"}) == "chat#2"
    assert unused("chat", {"chat", "chat#2", "chat#3"}) == "chat#4"


def test_their_webhooks_are_this_servings_alone_and_conflict_like_others() -> None:
    agent = Agent("offline")

    @agent.on(Webhook("/mine"))
    async def mine(event: TriggerEvent) -> None: ...

    both = with_webhooks(agent.triggers, [Chat(), Chat(path="/theirs")])
    assert [trigger.source for trigger in both] == ["POST /mine", "POST /theirs"]
    assert [trigger.source for trigger in agent.triggers] == ["POST /mine"]
    with pytest.raises(RouteConflict, match="POST /mine"):
        with_webhooks(agent.triggers, [Chat(path="/mine")])


async def test_an_interface_that_is_given_twice_is_served_once() -> None:
    agent, chat = Agent("offline"), Chat(path="/chat")
    agent.add_interface(chat)
    async with agent.running(chat, chat, enable_server=False) as runtime:
        assert [supervisor.name for supervisor in runtime.supervisors] == ["chat"]


@pytest.mark.parametrize("wrong", [7, Chat], ids=str)
async def test_what_is_no_interface_is_refused_where_it_is_given(wrong: Any) -> None:
    agent = Agent("offline")
    with pytest.raises(ConfigurationError, match="is no interface: an object such as TelegramInterface"):
        agent.add_interface(wrong)
    with pytest.raises(ConfigurationError, match="is no interface: an object such as TelegramInterface"):
        agent.running(wrong, enable_server=False)
