"""A custom interface: two methods, and its users get answers."""

from __future__ import annotations

import re
from typing import Any, Literal

import anyio
import pytest

from definable.agent import Agent
from definable.agent.interface import (
    Accept,
    AllowlistHook,
    BaseInterface,
    InterfaceAuthenticationError,
    InterfaceConfig,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceRateLimitError,
    InterfaceResponse,
)
from definable.errors import ConfigurationError, DefinableError
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio


class Lines(BaseInterface):
    """Hands over its lines and returns; remembers what was sent."""

    def __init__(self, *lines: str, agent: Agent | None = None, refuses: int = 0, auth: Any = None) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="lines"), agent=agent, auth=auth)
        self.lines = lines
        self.refuses = refuses
        self.sent: list[str | None] = []

    async def receive(self, accept: Accept) -> None:
        for number, line in enumerate(self.lines):
            await accept(InterfaceMessage("lines", "me", "here", str(number), text=line))

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        if self.refuses:
            self.refuses -= 1
            raise InterfaceMessageError("not this one")
        self.sent.append(response.content)


async def serve(agent: Agent, interface: Lines) -> Agent:
    with anyio.fail_after(10):
        async with agent.running(interface, enable_server=False) as runtime:
            await runtime.supervisors[0].received.wait()
            await runtime.bus.drain()
    return agent


def test_receive_and_send_are_what_an_interface_implements() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaseInterface()  # pyright: ignore[reportAbstractUsage]


def test_what_is_no_auth_provider_is_refused_where_it_is_given() -> None:
    with pytest.raises(ConfigurationError, match="auth='secret': a provider, False for everybody"):
        Lines(auth="secret")


async def test_an_interface_that_posts_must_edit() -> None:
    message = InterfaceMessage("lines", "me", "here", "1", text="hi")
    with pytest.raises(NotImplementedError, match="Lines implements post, and not edit"):
        await Lines().edit(message, "7", "hi there")


def test_an_interface_is_named_after_its_platform_or_its_class() -> None:
    interface = Lines()
    assert interface.name == "lines"
    interface.config = InterfaceConfig()
    assert interface.name == "Lines"


async def test_messages_are_answered_by_the_agent_that_serves() -> None:
    interface = Lines("one", "two")
    await serve(Agent("offline"), interface)
    assert interface.sent == ["one", "two"]


async def test_messages_of_one_chat_share_a_session() -> None:
    model = OfflineModel()
    await serve(Agent(model), Lines("one", "two"))
    assert [message.content for message in model.requests[-1].messages] == ["one", "one", "two"]


async def test_an_interface_may_bring_its_own_agent() -> None:
    interface = Lines("one", agent=Agent(OfflineModel("from my own")))
    await serve(Agent("offline"), interface)
    assert interface.sent == ["from my own"]


async def test_a_failing_run_sends_the_error_message(caplog: pytest.LogCaptureFixture) -> None:
    interface = Lines("one", "two")
    await serve(Agent(OfflineModel([ZeroDivisionError, "fine"])), interface)
    assert interface.sent == ["Sorry, something went wrong. Please try again.", "fine"]
    assert "message 0 was not answered" in caplog.text


async def test_a_message_that_cannot_be_sent_is_logged_and_the_next_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    interface = Lines("one", "two", refuses=2)
    await serve(Agent("offline"), interface)
    assert interface.sent == ["two"]
    assert "the error message could not be sent" in caplog.text


async def test_an_interface_given_to_the_agent_is_served_along() -> None:
    agent, interface = Agent("offline"), Lines("one")
    agent.add_interface(interface)
    with anyio.fail_after(10):
        async with agent.running(enable_server=False) as runtime:
            await runtime.supervisors[0].received.wait()
            await runtime.bus.drain()
    assert interface.sent == ["one"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interface_is_served_from_a_script(backend: Literal["asyncio", "trio"]) -> None:
    class Last(Lines):
        async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
            await super().send(message, response)
            assert agent.runtime is not None
            agent.runtime.stop()

    agent, interface = Agent("offline"), Last("one")
    report = agent.serve(interface, backend=backend, enable_server=False, handle_signals=False)
    assert interface.sent == ["one"]
    assert report.sources["lines"].completed == 1


def test_errors_have_the_status_that_says_it_best() -> None:
    assert InterfaceAuthenticationError("x").status == 401
    assert InterfaceMessageError("x").status == 400
    assert InterfaceConnectionError("x").status is None
    limited = InterfaceRateLimitError("x", retry_after=2.5)
    assert (limited.status, limited.retry_after) == (429, 2.5)
    assert InterfaceError("x", status=503).status == 503
    assert InterfaceError.status is None
    assert issubclass(InterfaceError, DefinableError)


@pytest.mark.parametrize("wrong", [print, "allowlist", AllowlistHook], ids=str)
def test_what_is_no_hook_is_refused_where_it_is_given(wrong: Any) -> None:
    """It would let in everybody whom it is there to keep out."""
    with pytest.raises(ConfigurationError, match=f"{re.escape(repr(wrong))} is no hook: .* on_message_received"):
        Hooked(wrong)


class Hooked(Lines):
    def __init__(self, hook: object) -> None:
        BaseInterface.__init__(self, hooks=[hook])


class Waiting(Lines):
    async def receive(self, accept: Accept) -> None:
        await super().receive(accept)
        await anyio.sleep_forever()


async def test_one_interface_of_two_agents_is_the_firsts_until_it_has_stopped() -> None:
    first, second, lines = Agent(OfflineModel(["first"])), Agent(OfflineModel(["second"])), Waiting("hi")
    with anyio.fail_after(10):
        async with first.running(lines, enable_server=False) as runtime:
            await runtime.bus.drain()
            async with second.running(lines, enable_server=False) as other:
                await other.supervisors[0].ended.wait()
                well, document = other.health()
                assert (well, document["children"]["lines"]["state"]) == (False, "failed")
                assert "lines is being served already" in (other.supervisors[0].error or "")
        lines.lines = ()
        async with second.running(lines, enable_server=False) as other:
            assert other.health()[0]
    assert lines.sent == ["first"]
