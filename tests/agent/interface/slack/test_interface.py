"""A Slack app against the loopback Slack, over sockets and over HTTP: what is said, answered, shown and pressed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from loopback.slack import SlackServer
from loopback.slack_blocks import shown
from loopback.slack_bot import Mode, app_for, serving

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.interface import (
    Button,
    InterfaceConfig,
    InterfaceHook,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceResponse,
    Media,
    SlackInterface,
)
from definable.model import FunctionModel, Image, OfflineModel

pytestmark = pytest.mark.anyio

MODES: list[Mode] = ["socket", "events"]


class Heard(InterfaceHook):
    """Notes what the agent is about to answer."""

    holds_back_replies = False

    def __init__(self) -> None:
        self.messages: list[InterfaceMessage] = []

    async def on_before_respond(self, message: InterfaceMessage, session: Any) -> None:
        self.messages.append(message)


@pytest.mark.parametrize("mode", MODES)
async def test_a_direct_message_is_answered(mode: Mode) -> None:
    async with SlackServer().running() as server:
        heard = Heard()
        async with serving(Agent("offline"), app_for(server, mode, hooks=[heard]), server):
            await server.say("D1", "hello **you**")
            await server.until(lambda: server.shown("D1"))
        assert server.shown("D1") == ["hello you"] and server.own("D1")[0].get("thread_ts") is None
        (message,) = heard.messages
        assert (message.username, message.locale, message.timezone) == ("Ann", "nb-NO", "Europe/Oslo")
        assert message.is_direct and message.is_addressed and message.thread_id is None
        assert server.violations == [] and server.lost == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_mention_is_two_events_and_one_answer_in_a_thread_of_its_own(mode: Mode) -> None:
    async with SlackServer().running() as server:
        heard = Heard()
        async with serving(Agent("offline"), app_for(server, mode, hooks=[heard]), server):
            ts = await server.say("C1", f"<@{server.bot_user}> hello, <@U2> &amp; <https://e.com/a|all>")
            await server.until(lambda: server.shown("C1"))
            await server.say("C1", "not for the app")
            await server.say("D1", "last")
            await server.until(lambda: server.shown("D1"))
        assert server.shown("C1", ts) == ["hello, @Bob & allhttps://e.com/a"] and len(server.own("C1")) == 1
        assert heard.messages[0].text == "hello, @Bob & [all](https://e.com/a)"
        assert (heard.messages[0].thread_id, heard.messages[0].is_direct) == (ts, False)
        assert server.violations == [] and server.lost == []


async def heard_of(server: SlackServer, do: Any, count: int = 1, agent: Agent | None = None, **settings: Any) -> Any:
    """The messages that the agent answers after something happened on the platform."""
    heard = Heard()
    async with serving(agent or Agent("offline"), app_for(server, hooks=[heard], **settings), server):
        await do()
        await server.until(lambda: len(heard.messages) >= count)
    assert server.violations == [] and server.lost == []
    return heard.messages


async def test_a_thread_is_a_conversation_of_its_own() -> None:
    async with SlackServer().running() as server:

        async def talk() -> None:
            first = await server.say("D1", "one")
            await server.say("D1", "two", thread_ts=first)
            await server.say("C1", f"<@{server.bot_user}> three", thread_ts="1700000000.000100")

        messages = await heard_of(server, talk, 3)
        first = next(each for each in messages if each.text == "one")
        assert {each.text: each.thread_id for each in messages} == {
            "one": None,
            "two": first.platform_message_id,
            "three": "1700000000.000100",
        }
        (second,) = server.shown("D1", first.platform_message_id)
        assert second.endswith("two") and "one" in second, "the thread is another conversation than its chat"
        assert server.shown("C1", "1700000000.000100") == ["three"]


async def test_a_thread_that_began_with_the_app_means_it_without_a_mention() -> None:
    async with SlackServer().running() as server:
        root = await server.say("C1", f"<@{server.bot_user}> begin")  # before the process: it must ask
        other = await server.say("C1", "among people")

        async def talk() -> None:
            await server.say("C1", "go on", thread_ts=root, parent_user_id="U1")
            await server.say("C1", "<@U2> you?", thread_ts=root, parent_user_id="U1")
            await server.say("C1", "not meant", thread_ts=other, parent_user_id="U1")
            own = await server.add_own("C2", {"text": "news", "blocks": []})
            await server.say("C2", "what?", thread_ts=own, parent_user_id=server.bot_user)

        messages = await heard_of(server, talk, 6, groups="all")
        meant = {each.text: each.is_addressed for each in messages}
        others = {"begin": True, "among people": False, "@Bob you?": False, "not meant": False}
        assert meant == {"go on": True, "what?": True} | others


async def test_what_was_said_before_in_a_thread_of_others_is_told() -> None:
    async with SlackServer().running() as server:
        root = await server.say("C1", "The <@U2> build fails &lt;again&gt;")

        async def talk() -> None:
            await server.say("C1", "since noon", user="U2", thread_ts=root)
            await server.say("C1", f"<@{server.bot_user}> why?", thread_ts=root)

        completed: list[InterfaceMessage] = []

        class Look(InterfaceHook):
            holds_back_replies = False

            async def on_before_respond(self, message: InterfaceMessage, session: Any) -> None:
                completed.append(message)

        async with serving(Agent("offline"), app_for(server, hooks=[Look()]), server):
            await talk()
            await server.until(lambda: any(each.text == "why?" for each in completed))
        asked = next(each for each in completed if each.text == "why?")
        assert [(each.kind, each.author, each.text) for each in asked.context] == [
            ("reply", "Ann", "The @Bob build fails <again>"),
            ("reply", "Bob", "since noon"),
        ]


async def test_forwards_files_and_what_is_none_of_it() -> None:
    async with SlackServer().running() as server:
        image = server.attach("a.png", b"\x89PNG", "image/png")
        text = server.attach("a.txt", b"long", "text/plain", mode="snippet")
        clip = server.attach("a.mp4", b"voice", "video/mp4", subtype="slack_audio", duration_ms=1500)
        shared = {"is_share": True, "author_id": "U2", "text": "old <@U1>", "ts": "1.2"}

        async def talk() -> None:
            await server.say("D1", "look", subtype="file_share", files=[image, text, clip])
            await server.say("D1", "", attachments=[shared])
            await server.say("D1", "joined", subtype="channel_join")
            await server.say("D1", "another bot", subtype="bot_message", bot_id="B9", user=None)

        messages = await heard_of(server, talk, 2)
        by_text = {each.text: each for each in messages}
        look = by_text["look"]
        assert [each.data for each in look.images] == [b"\x89PNG"]
        assert [(each.filename, each.data, each.media_type) for each in look.files] == [
            ("a.txt", b"long", "text/plain")
        ]
        assert [(each.duration, each.data, each.media_type) for each in look.audio] == [(1.5, b"voice", "audio/mp4")]
        assert [(each.kind, each.author, each.text) for each in by_text[None].context] == [
            ("forward", "Bob", "old @Ann")
        ]
        assert len(messages) == 2


async def test_a_file_that_may_not_be_read_is_described(caplog: pytest.LogCaptureFixture) -> None:
    async with SlackServer().running() as server:
        server.missing_scopes.add("files:read")
        image = server.attach("a.png", b"\x89PNG", "image/png")
        elsewhere = server.attach("b.png", b"x", "image/png") | {
            "url_private_download": "https://slack.com.evil.example/b.png"
        }

        async def talk() -> None:
            await server.say("D1", "look", subtype="file_share", files=[image, elsewhere])

        (message,) = await heard_of(server, talk)
        assert message.images == () and [each.filename for each in message.files] == ["a.png", "b.png"]
        assert (
            "is the scope files:read missing?" in caplog.text
            and "not fetched from slack.com.evil.example" in caplog.text
        )


@pytest.mark.parametrize("mode", MODES)
async def test_buttons_are_shown_and_come_back(mode: Mode) -> None:
    class Ask(InterfaceHook):
        async def on_after_respond(self, message: Any, response: InterfaceResponse, session: Any) -> InterfaceResponse:
            rows = ((Button("Yes", "y"), Button("Page", url="https://e.com")), (Button("N" * 100),))
            return replace(response, buttons=rows if message.button is None else ())

    async with SlackServer().running() as server:
        heard = Heard()
        interface = app_for(server, mode, hooks=[Ask(), heard])
        async with serving(Agent("offline"), interface, server):
            await server.say("D1", "Sure?")
            await server.until(lambda: server.own("D1"))
            posted = server.own("D1")[0]
            await server.press("D1", posted["ts"])
            await server.until(lambda: len(server.own("D1")) == 2)
        assert [block["type"] for block in posted["blocks"]] == ["rich_text", "actions", "actions"]
        pressed = heard.messages[-1]
        assert (pressed.text, pressed.button, pressed.username) == ("Yes", "y", "Ann")
        assert server.violations == [] and server.lost == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_slash_command_is_answered_where_only_its_user_sees_it(mode: Mode) -> None:
    async with SlackServer().running() as server:
        heard = Heard()
        server.not_joined.add("C2")
        async with serving(Agent("offline"), app_for(server, mode, hooks=[heard]), server):
            await server.command("ask", "why", "C2")
            await server.until(lambda: server.replies)
        assert (heard.messages[0].command, heard.messages[0].text, heard.messages[0].is_direct) == ("ask", "why", False)
        assert [(each["response_type"], shown(each)) for each in server.replies] == [("ephemeral", "/ask why")]
        assert [body for _, body in server.responses] == ([""] if mode == "events" else [])
        assert server.violations == [] and server.lost == []


@pytest.mark.parametrize("mode", MODES)
async def test_the_service_s_own_commands_and_corrections(mode: Mode) -> None:
    async with SlackServer().running() as server:
        heard = Heard()
        async with serving(Agent("offline"), app_for(server, mode, hooks=[heard]), server):
            ts = await server.say("D1", "helo")
            await server.until(lambda: server.shown("D1"))
            await server.edit("D1", ts, "hello")
            await server.until(lambda: len(server.shown("D1")) == 2)
            await server.command("stop", channel="D1")
            await server.command("new", channel="D1")
            await server.until(lambda: len(server.replies) == 2)
        assert [each.is_edit for each in heard.messages] == [False, True]
        texts = InterfaceConfig().texts
        assert sorted(map(shown, server.replies)) == sorted([texts.nothing_to_stop, texts.new_conversation])
        assert server.violations == [] and server.lost == []


async def test_an_answer_is_stopped_in_its_thread_and_in_a_direct_chat() -> None:
    begun: list[str] = []

    async def hang(messages: Any) -> str:
        begun.append(messages[-1].content)
        await anyio.sleep_forever()
        return ""

    async with SlackServer().running() as server:
        async with serving(Agent(FunctionModel(hang)), app_for(server), server):
            ts = await server.say("C1", f"<@{server.bot_user}> think")
            await server.say("D1", "think")
            await server.until(lambda: len(begun) == 2)
            await server.say("C1", f"<@{server.bot_user}> /stop", thread_ts=ts)  # Slack has no commands in threads
            await server.command("stop", channel="D1")
            stopped = InterfaceConfig().texts.stopped
            await server.until(lambda: server.shown("C1", ts) == [stopped] and server.replies)
        assert list(map(shown, server.replies)) == [stopped]


async def test_a_pressed_button_comes_to_a_hook() -> None:
    class Choose(InterfaceHook):
        def on_after_respond(self, message: Any, response: InterfaceResponse, session: Any) -> InterfaceResponse:
            return replace(response, buttons=((Button("Yes", "y"),),))

        def on_button(self, message: InterfaceMessage, session: Any) -> InterfaceResponse:
            return InterfaceResponse(f"chosen: {message.button}")

    async with SlackServer().running() as server:
        async with serving(Agent("offline"), app_for(server, hooks=[Choose()]), server):
            ts = await server.say("C1", f"<@{server.bot_user}> sure?")
            await server.until(lambda: server.own("C1"))
            await server.press("C1", server.own("C1")[0]["ts"])
            await server.until(lambda: len(server.own("C1", ts)) == 2)
        assert server.shown("C1", ts) == ["sure?", "chosen: y"]


async def test_messages_that_follow_one_another_are_answered_as_one() -> None:
    async with SlackServer().running() as server:
        async with serving(Agent("offline"), app_for(server, collect=0.3), server):
            note = server.attach("a.txt", b"content of the file", "text/plain")
            await server.say("D1", "one")
            await server.say("D1", "two", subtype="file_share", files=[note])
            await server.until(lambda: server.own("D1"))
        (answer,) = server.shown("D1")
        assert {"one", "two", "content of the file"} <= {*answer.splitlines()}


async def test_files_and_images_of_a_response_are_sent() -> None:
    async with SlackServer().running() as server:
        interface = app_for(server)
        files = (Media(b"content", media_type="text/plain", filename="a.txt"), Media(url="https://e.com/x.zip"))
        images = (Image(data=b"\x89PNG"), Image(url="https://e.com/y.png"))
        async with serving(Agent("offline"), interface, server):
            message = InterfaceMessage("slack", "U1", "C1", "1.2", thread_id="1700000000.000100")
            await interface.send(message, InterfaceResponse("Here", images=images, files=files))
            with pytest.raises(InterfaceMessageError, match="0 bytes"):
                await interface.send(message, InterfaceResponse(files=(Media(b"", filename="no.txt"),)))
        assert [name for *_, name, _ in server.uploaded] == ["image1.png", "a.txt"]
        assert {(channel, thread) for channel, thread, *_ in server.uploaded} == {("C1", "1700000000.000100")}
        assert server.shown("C1", "1700000000.000100") == ["Here", "https://e.com/y.png", "https://e.com/x.zip"]
        assert server.violations == []


async def test_a_refused_upload_or_block_or_a_vanished_thread_costs_the_decoration_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with SlackServer().running() as server:
        interface = app_for(server)
        message = InterfaceMessage("slack", "U1", "C1", "1.2", thread_id="1700000000.000100")
        async with serving(Agent("offline"), interface, server):
            server.missing_scopes.add("files:write")
            await interface.send(message, InterfaceResponse("text", files=(Media(b"x", filename="a.txt"),)))
            server.fail_next("chat.postMessage", "invalid_blocks")
            await interface.send(message, InterfaceResponse("**a** <b> & `c`"))
            server.vanished.add("1700000000.000100")
            await interface.send(replace(message, platform_chat_id="C2"), InterfaceResponse("in the channel"))
        assert server.shown("C1") == ["text", "**a** <b> & `c`"] and server.shown("C2") == ["in the channel"]
        assert server.own("C2")[-1].get("thread_ts") is None
        for words in ("the scope files:write is needed", "is sent unformatted", "the answer goes into the channel"):
            assert words in caplog.text


async def test_nothing_that_a_model_writes_pings_or_is_previewed() -> None:
    async with SlackServer().running() as server:
        async with serving(Agent(OfflineModel(["<!here> <@U2> @here https://e.com/x"])), app_for(server), server):
            await server.say("D1", "hello")
            await server.until(lambda: server.own("D1"))
        (parameters,) = [parameters for name, parameters in server.calls if name == "chat.postMessage"]
        assert parameters["text"] == "&lt;!here&gt; &lt;@U2&gt; @here https://e.com/x"
        assert (parameters["parse"], parameters["unfurl_links"], parameters["unfurl_media"]) == (
            "none",
            "false",
            "false",
        )
        assert server.shown("D1") == ["<!here> <@U2> @here https://e.com/x"]


async def test_a_status_is_shown_in_threads_until_the_reply_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with SlackServer().running() as server:

        def asked() -> bool:
            return [name for name, _ in server.calls].count("assistant.threads.setStatus") >= 1 and not server.faults

        async def answer(messages: Any) -> str:
            await server.until(asked)
            return "done"

        async def talk() -> None:
            await server.say("C1", f"<@{server.bot_user}> hello", ts="1700000000.000100")

        await heard_of(server, talk, agent=Agent(FunctionModel(answer)))
        assert server.statuses == [("C1", "1700000000.000100", "is thinking...")]
        server.fail_next("assistant.threads.setStatus", "channel_type_not_supported")
        await heard_of(server, talk, agent=Agent(FunctionModel(answer)))
        assert len(server.statuses) == 1 and "no status is shown from now on" in caplog.text


async def test_a_long_reply_is_shown_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlackInterface, "edit_interval", 0.01)
    go_on = anyio.Event()

    async def write(messages: Any) -> AsyncIterator[str]:
        yield "**Half"
        await go_on.wait()
        yield " way** done " + "x" * 4500

    async with SlackServer().running() as server:
        async with serving(Agent(FunctionModel(write)), app_for(server), server):
            await server.say("D1", "hello")
            await server.until(lambda: server.shown("D1") == ["**Half"])
            go_on.set()
            await server.until(lambda: len(server.shown("D1")) == 2)
            await server.until(lambda: "".join(server.shown("D1")).endswith("x"))
        assert server.shown("D1")[0].startswith("Half way done") and "".join(server.shown("D1")).count("x") == 4500
        assert server.violations == [] and server.updates


async def test_buttons_stand_under_a_reply_that_was_streamed() -> None:
    async with SlackServer().running() as server:
        interface, message = app_for(server), InterfaceMessage("slack", "U1", "D1", "1.2")
        async with serving(Agent("offline"), interface, server):
            posted = await interface.post(message, "half")
            assert posted is not None
            await interface.edit(message, posted, "**whole**")
            await interface.send(message, InterfaceResponse(buttons=((Button("Yes"),),)))
            await interface.send(
                replace(message, platform_message_id="1.3"), InterfaceResponse(buttons=((Button("No"),),))
            )
        first, second = server.own("D1")
        assert [block["type"] for block in first["blocks"]] == ["rich_text", "actions"] and server.shown("D1")[
            0
        ] == "whole"
        assert [block["type"] for block in second["blocks"]] == ["actions"] and second["text"] == "No"


async def test_only_slack_is_listened_to_over_http() -> None:
    async with SlackServer().running() as server:
        interface = app_for(server, "events")
        async with serving(Agent("offline"), interface, server), httpx2.AsyncClient() as client:
            url, body = server.events_url or "", b'{"type":"url_verification","challenge":"c1"}'
            json_type = {"Content-Type": "application/json"}
            answer = await client.post(url, content=body, headers=json_type | server.signed(body))
            assert (answer.status_code, answer.text) == (200, "c1")
            assert (await client.post(url, content=body, headers=json_type)).status_code == 401
            old = json_type | server.signed(body, at=time.time() - 600)
            assert (await client.post(url, content=body, headers=old)).status_code == 401


async def test_messages_that_come_again_are_answered_once_on_a_durable_bus(tmp_path: Path) -> None:
    async with SlackServer().running() as server:
        agent = Agent("offline", bus=SQLiteBus(tmp_path / "bus.db"))
        async with serving(agent, app_for(server, "events"), server):
            ts = await server.say("D1", "hello")
            await server.until(lambda: server.own("D1"))
            await server.say("D1", "hello", ts=ts)  # Slack sends it again, with an event id of its own
            await server.say("D1", "after")
            await server.until(lambda: len(server.own("D1")) >= 2)
        assert server.shown("D1") == ["hello", "after"]
