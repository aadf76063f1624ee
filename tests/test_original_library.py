"""Lines of programs that were written for the library which this one took its page from.

Each is either accepted, or refused with what is written here in its place.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable import original_library
from definable.agent import Agent
from definable.agent.auth import AllowlistAuth, APIKeyAuth, AuthContext
from definable.agent.interface import (
    AllowlistHook,
    BaseInterface,
    DiscordConfig,
    DiscordInterface,
    InterfaceAuthenticationError,
    InterfaceConfig,
    InterfaceError,
    InterfaceMessage,
    InterfaceRateLimitError,
    InterfaceResponse,
    LoggingHook,
    PlatformIdentity,
    SQLiteIdentityResolver,
    TelegramConfig,
    TelegramInterface,
)
from definable.agent.runtime import AgentRuntime
from definable.agent.runtime.dispatch import run_arguments
from definable.agent.trigger import BaseTrigger, Cron, EventTrigger, Headers, RawRequest, TriggerEvent, Webhook
from definable.errors import ConfigurationError
from definable.model import OpenAIChat

TELEGRAM = "1234567890:" + "A" * 35
DISCORD = "M" * 24 + ".abcdef." + "x" * 38


def agent(**arguments: Any) -> Agent:
    return Agent("offline", **arguments)


def telegram(**settings: Any) -> TelegramInterface:
    return TelegramInterface(bot_token=TELEGRAM, **settings)


class Bell(BaseTrigger):
    @property
    def name(self) -> str:
        return "bell"


class Chat(BaseInterface):
    async def receive(self, accept: Any) -> None: ...

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None: ...


async def linked(path: Path) -> tuple[str | None, list[PlatformIdentity], bool]:
    async with SQLiteIdentityResolver(db_path=path / "identity.db") as resolver:
        await resolver.link("telegram", "1", "alice", username="A")
        found = await resolver.resolve("telegram", "1")
        return found, await resolver.get_identities("alice"), await resolver.unlink("telegram", "1")


@pytest.mark.parametrize(
    ("line", "gives"),
    [
        (lambda: isinstance(Agent(model="gpt-4o-mini").model, OpenAIChat), True),
        (lambda: agent().run(instruction="hi").content, "hi"),
        (lambda: anyio.run(lambda: agent().arun(instruction="hi", session_id="s", user_id="u")).content, "hi"),
        (lambda: run_arguments({"instruction": "hi", "session_id": "s"}), {"input": "hi", "session_id": "s"}),
        (lambda: agent().add_interface(telegram()).name, "agent"),
        (lambda: agent().emit(event_name="x", data={}), None),
        (lambda: EventTrigger(event_name="x").event_name, "x"),
        (lambda: EventTrigger(pattern="x.*").event_name, "x.*"),
        (lambda: EventTrigger("x").name, "event(x)"),
        (lambda: (Webhook("/x").name, Cron("* * * * *").name), ("POST /x", "cron(* * * * *)")),
        (lambda: Cron("0 9 * * *").next_run(0.0), 9 * 3600.0),
        (lambda: (Bell().name, Bell().source), ("bell", "bell")),
        (lambda: TriggerEvent(source="x").headers, None),
        (lambda: AllowlistAuth({"1"}, platforms={"telegram"}).user_ids, {"1"}),
        (lambda: AuthContext(user_id="u", metadata={}).user_id, "u"),
        (lambda: telegram(parse_mode="MarkdownV2").config.parse_mode, "MarkdownV2"),
        (lambda: telegram(allowed_user_ids=[1], allowed_chat_ids=[2]).config.allowed_chat_ids, {"2"}),
        (lambda: TelegramInterface(agent=agent(), config=TelegramConfig(bot_token=TELEGRAM)).config.mode, "polling"),
        (lambda: TelegramInterface(TelegramConfig(bot_token=TELEGRAM), platform="tg").config.platform, "tg"),
        (lambda: DiscordInterface(bot_token=DISCORD, command_prefix="!").config.command_prefix, "!"),
        (lambda: DiscordInterface(config=DiscordConfig(bot_token=DISCORD)).config.respond_to_bots, False),
        (lambda: Chat(platform="chat", max_message_length=5).config, InterfaceConfig("chat", max_message_length=5)),
        (lambda: len(telegram(hooks=[LoggingHook(), AllowlistHook(allowed_user_ids={"1"})]).hooks), 2),
        (lambda: len(telegram().add_hook(LoggingHook()).add_hook(AllowlistHook(allowed_user_ids={"1"})).hooks), 2),
        (lambda: InterfaceRateLimitError("m", platform="slack", retry_after=30.0).retry_after, 30.0),
        (lambda: InterfaceRateLimitError("m", platform="slack").status_code, 429),
        (lambda: InterfaceError("m", status_code=500).status, 500),
        (lambda: InterfaceAuthenticationError("m", platform="x").platform, "x"),
        (lambda: AgentRuntime(agent(), interfaces=None, host="127.0.0.1", port=0, name="n", dev=False).name, "n"),
        (lambda: agent().run("x").to_dict, AttributeError),
        (lambda: getattr(agent().run("x"), "metrics", "missing"), "missing"),
    ],
)
def test_a_line_is_accepted(line: Callable[[], Any], gives: Any) -> None:
    if gives is AttributeError:
        with pytest.raises(AttributeError, match=r"dataclasses\.asdict"):
            line()
    else:
        assert line() == gives


def test_an_agent_is_a_context_that_leaves_nothing_open() -> None:
    with agent() as with_block:
        assert with_block.run("hi").content == "hi"

    async def within() -> str:
        async with agent() as opened:
            return (await opened.arun("hi")).content

    assert anyio.run(within) == anyio.run(within, backend="trio") == "hi"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_identities_are_linked_with_a_name(backend: str, tmp_path: Path) -> None:
    found, identities, unlinked = anyio.run(linked, tmp_path, backend=backend)
    assert (found, identities, unlinked) == ("alice", [("telegram", "1")], True)
    [identity] = identities
    assert (identity.platform, identity.platform_user_id, identity.username) == ("telegram", "1", "A")
    assert identity.canonical_user_id == "alice" and identity.linked_at > 0


@pytest.mark.parametrize("body", [b'{"m": "x"}', b'["x", 1]'])
def test_a_requests_json_may_be_awaited(body: bytes) -> None:
    raw = RawRequest("POST", "/x", {}, {}, Headers(), body, None)

    async def awaited() -> Any:
        return await raw.json()

    value = anyio.run(awaited)
    assert value == raw.json() == json.loads(body) and type(value) in (dict, list)
    assert json.loads(json.dumps(raw.json())) == value


def test_the_modules_of_hooks_and_identities_have_their_names() -> None:
    from definable.agent.interface import LoggingHook as Hook
    from definable.agent.interface import SQLiteIdentityResolver as Resolver

    assert (Hook, Resolver) == (LoggingHook, SQLiteIdentityResolver)


def test_the_webhooks_port_is_accepted_and_its_user_warned_once_on_the_line_that_has_it() -> None:
    with pytest.warns(UserWarning, match=r"webhook_port=8443 has no effect.*agent.serve\(port=8443\)") as warned:
        telegram(mode="webhook", webhook_url="https://x.example", webhook_port=8443)
    assert len(warned) == 1


def refused_lines() -> Iterator[tuple[Callable[[], Any], str]]:
    for argument, hint in original_library.AGENT_ARGUMENTS.items():
        yield (lambda argument=argument: agent(**{argument: None})), f"Agent() has no argument {argument!r}: {hint}"
    for argument, hint in original_library.RUN_ARGUMENTS.items():
        yield (lambda argument=argument: agent().run("hi", **{argument: None})), f"has no argument {argument!r}: {hint}"
    for name, hint in original_library.AGENT_ATTRIBUTES.items():
        yield (lambda name=name: getattr(agent(), name)), f"'Agent' object has no attribute {name!r}: {hint}"
    for name, hint in original_library.OUTPUT_ATTRIBUTES.items():
        yield (lambda name=name: getattr(agent().run("x"), name)), f"no attribute {name!r}: {hint}"
    for name, hint in original_library.INTERFACE_ATTRIBUTES.items():
        yield (lambda name=name: getattr(telegram(), name)), f"no attribute {name!r}: {hint}"
    for name, hint in original_library.API_KEY_ATTRIBUTES.items():
        yield (lambda name=name: getattr(APIKeyAuth("k" * 20), name)), f"no attribute {name!r}: {hint}"
    for module, names in original_library.MODULE_NAMES.items():
        for name, hint in names.items():
            statement = f"from {module} import {name}"
            yield (lambda statement=statement: exec(statement)), f"cannot import name {name!r} from {module!r}: {hint}"
    yield (lambda: agent(instruction="x")), "did you mean 'instructions'?"
    yield (lambda: agent(xyz=1)), "Agent() has no argument 'xyz': it takes model, instructions, tools"
    yield (lambda: agent().run()), "run() needs an input"
    yield (lambda: agent().run("a", instruction="b")), "two names of one argument"
    yield (lambda: agent().emit("x", delai=1)), "emit() has no argument 'delai'"
    yield (lambda: agent().serve(prt=8000)), "serve() has no argument 'prt': did you mean 'port'?"
    yield (lambda: agent().running(reload=True)), "serve() has no argument 'reload': it takes name, host, port"
    yield (lambda: telegram(bot_tokn="x")), "TelegramInterface() has no argument 'bot_tokn': did you mean 'bot_token'?"
    yield (lambda: TelegramInterface()), "TelegramInterface() needs a TelegramConfig, or its settings: "
    yield (lambda: TelegramInterface(TELEGRAM)), "TelegramInterface(config=str): a TelegramConfig"
    yield (lambda: DiscordInterface(InterfaceConfig())), "DiscordInterface(config=InterfaceConfig): a DiscordConfig"
    yield (lambda: TelegramConfig(token="x")), "TelegramConfig() has no argument 'token': did you mean 'bot_token'?"
    yield (lambda: InterfaceConfig().with_updates(platfrm="x")), "did you mean 'platform'?"
    yield (lambda: Agent("nobody/model")), "OpenAIChat(id, base_url=..., api_key=...)"
    yield (lambda: setattr(TriggerEvent({}), "body", {})), "change what is in the dict, .body.update(...)"
    yield (lambda: setattr(InterfaceResponse("x"), "content", "y")), "dataclasses.replace(..., content=...)"
    yield (lambda: anyio.run(iterated)), "async with agent.arun_stream(...) as events"
    yield (lambda: anyio.run(entered)), f"TelegramInterface is no context: {original_library.INTERFACE_CONTEXT}"


async def entered() -> None:
    async with telegram():
        pass


async def iterated() -> None:
    async for _ in agent().arun_stream("hi"):
        raise AssertionError("an event")


@pytest.mark.parametrize(("line", "says"), [pytest.param(line, says, id=says[:60]) for line, says in refused_lines()])
def test_what_is_not_accepted_says_what_to_write_here(line: Callable[[], Any], says: str) -> None:
    with pytest.raises((TypeError, AttributeError, ImportError, ConfigurationError)) as refused:
        line()
    assert says in str(refused.value)


def test_an_interface_that_is_written_for_the_original_is_told_what_to_implement() -> None:
    with pytest.raises(TypeError, match=r"receive\(accept\), which runs until it is cancelled, and send\("):

        class _Slack(BaseInterface):
            async def _start_receiver(self) -> None: ...

            async def _send_response(self, message: Any, response: Any, raw: Any) -> None: ...


def test_a_trigger_that_says_neither_name_nor_source_cannot_be_made() -> None:
    class Nameless(BaseTrigger): ...

    with pytest.raises(TypeError, match="source"):
        Nameless()  # pyright: ignore[reportAbstractUsage]


def test_the_guide_names_all_that_is_refused() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
    tables = [table for name, table in vars(original_library).items() if name.endswith(("ARGUMENTS", "ATTRIBUTES"))]
    names = {name for table in [*tables, *original_library.MODULE_NAMES.values()] for name in table}
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", guide)) == []


def test_what_a_tool_asks_of_any_object_is_no_surprise(caplog: pytest.LogCaptureFixture) -> None:
    """A debugger, a mock or `copy` asks for names that nobody has."""
    caplog.set_level(logging.WARNING)
    for value in (agent(), agent().run("x"), telegram()):
        assert not hasattr(value, "_repr_html_")
        assert getattr(value, "__deepcopy__", math.nan) is math.nan
