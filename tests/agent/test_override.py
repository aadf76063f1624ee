"""An agent that a module defines, with other parts for a while."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import MemoryBus
from definable.agent.interface import BaseInterface, InterfaceMessage, InterfaceResponse
from definable.agent.session import MemorySessionStore
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError, ServeError
from definable.testing import OfflineModel

pytestmark = pytest.mark.anyio


class Chat(BaseInterface):
    async def receive(self, accept: Any) -> None:
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None: ...


def test_parts_are_exchanged_and_come_back() -> None:
    chat, bus = Chat(), MemoryBus()
    agent = Agent("openai/gpt-4o").add_interface(chat)
    before = (agent.model, agent.sessions, agent.bus, agent.interfaces, agent.emitter)
    sessions = MemorySessionStore()
    with agent.override(model="offline", bus=bus, sessions=sessions, interfaces=[]) as overridden:
        assert overridden is agent
        assert (agent.model.id, agent.bus, agent.sessions, agent.interfaces) == ("offline", bus, sessions, [])
        assert agent.run("hi", session_id="s").content == "hi"
    assert (agent.model, agent.sessions, agent.bus, agent.interfaces, agent.emitter) == before
    assert agent.interfaces == [chat]


def test_overrides_are_nested() -> None:
    agent = Agent(OfflineModel(["one"]))
    with agent.override(model=OfflineModel(["two"])):
        with agent.override(model=OfflineModel(["three"])):
            assert agent.run("x").content == "three"
        assert agent.run("x").content == "two"
    assert agent.run("x").content == "one"


def test_parts_come_back_after_a_failure() -> None:
    agent = Agent("offline")
    model = agent.model
    with pytest.raises(KeyError), agent.override(model=OfflineModel()):
        raise KeyError
    with pytest.raises(ConfigurationError, match="no interface"), agent.override(model="offline", interfaces=[1]):
        raise AssertionError
    with pytest.raises(TypeError, match="override\\(\\) has no argument 'modl': did you mean 'model'"):
        with agent.override(modl="offline"):
            raise AssertionError
    assert agent.model is model


async def test_a_serving_within_is_of_the_override_alone(anyio_backend: object) -> None:
    agent = Agent(OfflineModel(["no"]))
    seen: list[Any] = []

    @agent.on(EventTrigger("e"))
    def keep(event: TriggerEvent) -> str:
        seen.append(event.body)
        return "go"

    agent.emit("e", {"from": "before"})
    model = OfflineModel(["yes"])
    with agent.override(model=model, bus=None):
        async with agent.running(enable_server=False) as runtime:
            agent.emit("e", {"from": "within"})
        assert runtime.report is not None and runtime.report.completed == 1
    assert seen == [{"from": "within"}]
    assert len(model.requests) == 1
    async with agent.running(enable_server=False):
        pass
    assert seen == [{"from": "within"}, {"from": "before"}]


async def test_a_served_agent_keeps_its_parts(anyio_backend: object) -> None:
    agent = Agent("offline")
    async with agent.running(enable_server=False):
        with pytest.raises(ServeError, match="enter override\\(\\) first, serve within"), agent.override():
            raise AssertionError
        for part, value in [("model", "offline"), ("sessions", MemorySessionStore()), ("bus", None)]:
            with pytest.raises(ServeError, match=f"agent.{part} cannot be set while the agent is served"):
                setattr(agent, part, value)


async def test_an_override_that_ends_before_its_serving_says_so(anyio_backend: object) -> None:
    agent, model = Agent("offline"), OfflineModel()
    async with anyio.create_task_group() as group:
        with pytest.raises(ServeError, match="stop it within"), agent.override(model=model):
            serving = agent.running(enable_server=False)
            await serving.__aenter__()
        assert agent.model is not model
        await serving.__aexit__(None, None, None)
        group.cancel_scope.cancel()


def test_parts_can_be_set_before_serving() -> None:
    agent = Agent("openai/gpt-4o")
    model, sessions, bus = OfflineModel(), MemorySessionStore(), MemoryBus()
    agent.model, agent.sessions, agent.bus = model, sessions, bus
    assert (agent.model, agent.sessions, agent.bus) == (model, sessions, bus)
    assert agent.run("hi").content == "hi"
    agent.model = "gpt-4o-mini"
    assert agent.model.id == "gpt-4o-mini"
    agent.bus = None
    for part, wrong in [("model", 5), ("sessions", "s.db"), ("bus", "events.db"), ("auth", "key")]:
        with pytest.raises(ConfigurationError):
            setattr(agent, part, wrong)
