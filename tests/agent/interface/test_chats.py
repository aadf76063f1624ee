"""What is the same on every chat platform, over the fake one: groups, commands, collecting, busy chats, buttons."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from definable.agent import Agent, ToolResult
from definable.agent.auth import AllowlistAuth
from definable.agent.bus import SQLiteBus
from definable.agent.interface import (
    Accept,
    Button,
    InterfaceAuthenticationError,
    InterfaceHook,
    InterfaceMessage,
    InterfaceRateLimitError,
    InterfaceResponse,
    InterfaceSession,
    Media,
    QuotedMessage,
    Texts,
)
from definable.agent.runtime import AgentRuntime
from definable.agent.session import MemorySessionStore
from definable.errors import ServeError
from definable.model import Image, ModelReply, ModelRequest, OfflineModel, ToolCall
from definable.testing import VIRTUAL_BACKENDS, FakeChat, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


@asynccontextmanager
async def serving(agent: Agent, *chats: FakeChat, **options: Any) -> AsyncGenerator[AgentRuntime]:
    with anyio.fail_after(10_000):
        async with agent.running(*chats, enable_server=False, **options) as runtime:
            yield runtime


def asked(model: OfflineModel) -> list[str]:
    """What users have asked, one for each run."""
    return [request.messages[-1].content for request in model.requests]


class Slow:
    """A model's script: what is `stuck` never ends, what begins with a number takes so many seconds."""

    def __init__(self) -> None:
        self.model = OfflineModel(self.reply, latency=0)
        self.begun: list[str] = []

    async def reply(self, request: ModelRequest) -> str:
        text = request.messages[-1].content
        self.begun.append(text)
        if "stuck" in text:
            await anyio.sleep_forever()
        if text[:1].isdigit():
            await anyio.sleep(float(text.split()[0]))
        return text


# --- groups


async def test_in_a_group_the_agent_answers_when_it_is_meant() -> None:
    model, chat = OfflineModel(), FakeChat()
    async with serving(Agent(model), chat):
        await chat.write("what a day", group="team")
        shown = await chat.ask("@bot  hello", group="team")
        await chat.write(
            "to somebody else", group="team", reply_to=await chat.write("said bob", group="team", user="bob")
        )
        await chat.ask("and now?", group="team", user="bob", reply_to=shown)
        await chat.ask("direct")
    assert [text.splitlines()[-1] for text in asked(model)] == ["hello", "and now?", "direct"]
    assert (len(chat.texts("team")), chat.texts()) == (2, ["direct"])
    assert len(chat.handled_ids) == 6  # also those that nobody wants answered


@pytest.mark.parametrize(("groups", "expected"), [("all", ["one", "two"]), ("off", [])], ids=["all", "off"])
async def test_groups_may_be_answered_always_or_never(groups: Any, expected: list[str]) -> None:
    model, chat = OfflineModel(), FakeChat(groups=groups)
    async with serving(Agent(model), chat):
        await chat.write("one", group="team")
        await anyio.sleep(5)
        await chat.write("@bot two", group="team")
        await chat.write("/help", group="team")
        await anyio.sleep(5)  # else the two chats are answered in any order
        assert (await chat.ask("direct")).text == "direct"
    assert asked(model) == [*expected, "direct"]
    assert len(chat.texts("team")) == (3 if groups == "all" else 0)


async def test_a_thread_is_a_conversation_of_its_own() -> None:
    model, chat = OfflineModel("ok"), FakeChat()
    async with serving(Agent(model), chat):
        await chat.ask("@bot in the group", group="team")
        await chat.ask("@bot in a thread", group="team", thread="1")
        await chat.ask("@bot again in the group", group="team")
        await chat.ask("@bot again in the thread", group="team", thread="1")
    contents = [[message.content for message in request.messages] for request in model.requests]
    assert contents[2] == ["in the group", "ok", "again in the group"]
    assert contents[3] == ["in a thread", "ok", "again in the thread"]
    assert (len(chat.shown("team")), len(chat.shown("team", "1"))) == (2, 2)


async def test_threads_of_a_group_are_answered_side_by_side_and_one_message_id_each() -> None:
    slow, chat = Slow(), FakeChat()
    async with serving(Agent(slow.model), chat):
        await chat.write("@bot stuck", group="team", thread="1", message_id="7")
        assert (await chat.ask("@bot hi", group="team", thread="2", message_id="7")).text == "hi"
        await chat.write("/stop", group="team", thread="1")
        await chat.until(lambda: chat.texts("team", "1") == [Texts().stopped])


# --- messages that become one


async def test_a_burst_of_one_user_is_one_message() -> None:
    model, chat = OfflineModel(), FakeChat(collect=0.8)
    async with serving(Agent(model), chat):
        for text in ("hey", "can you", "tell me the time?"):
            await chat.write(text)
            await anyio.sleep(0.5)
        await anyio.sleep(2)
        await chat.ask("another")
    assert asked(model) == ["hey\ncan you\ntell me the time?", "another"]
    assert len(chat.handled_ids) == 4


async def test_a_pasted_text_that_the_platform_cut_up_is_whole() -> None:
    model, chat = OfflineModel(lambda request: str(len(request.messages[-1].content))), FakeChat(collect=0.8)
    async with serving(Agent(model), chat):
        text = "x" * 10_000
        for at in (0, 4096):
            await chat.write(text[at : at + 4096])
        assert (await chat.ask(text[8192:])).text == "10000"
    assert len(chat.messages) == 1


async def test_an_album_in_a_group_is_one_message_meant_by_its_caption() -> None:
    model, chat = OfflineModel("nice"), FakeChat(collect=0.8)
    async with serving(Agent(model), chat):
        for number in range(3):
            picture = {"images": (Image(data=b"%d" % number),), "group_id": "album"}
            await chat.write("@bot which is best?" if number == 1 else None, group="team", **picture)
        await chat.until(lambda: chat.texts("team") == ["nice"])
        for _ in range(3):  # nobody is meant by these
            await chat.write(group="team", images=(Image(data=b"x"),), group_id="another", user="bob")
        await anyio.sleep(10)
    assert [len(request.messages[-1].images) for request in model.requests] == [3]
    assert len(chat.handled_ids) == 6


async def test_what_follows_at_once_goes_on_with_what_meant_the_agent() -> None:
    model, chat = OfflineModel(), FakeChat(collect=0.8)
    async with serving(Agent(model), chat):
        await chat.write("@bot look at this:", group="team")
        await chat.write("somebody else's", group="team", user="bob")
        await chat.write("the second part", group="team")
        await anyio.sleep(5)
        await chat.write("much later", group="team")
        await anyio.sleep(5)
    assert asked(model) == ["look at this:\nthe second part"]


async def test_two_users_of_a_group_are_not_mixed_up() -> None:
    model, chat = OfflineModel(), FakeChat(collect=0.8)
    async with serving(Agent(model), chat):
        for user in ("ann", "bob", "ann"):
            await chat.write(f"@bot from {user}", group="team", user=user)
        await chat.until(lambda: len(chat.texts("team")) == 3)
    assert asked(model) == ["from ann", "from bob", "from ann"]


async def test_a_command_and_a_button_wait_for_nothing() -> None:
    chat = FakeChat(collect=30)
    response = InterfaceResponse("?", buttons=((Button("Yes"),),))

    class Buttons(InterfaceHook):
        async def on_after_respond(
            self, message: InterfaceMessage, answer: InterfaceResponse, session: InterfaceSession
        ) -> InterfaceResponse:
            return response

    chat.add_hook(Buttons())
    async with serving(Agent("offline"), chat):
        began = anyio.current_time()
        await chat.ask("/unknown to the core")
        await chat.ask("/help")
        await chat.press("Yes")
        await chat.until(lambda: len(chat.texts()) == 3)
        assert anyio.current_time() - began < 1


async def test_who_goes_on_writing_is_answered_all_the_same() -> None:
    model, chat = OfflineModel(), FakeChat(collect=1)
    async with serving(Agent(model), chat):
        for number in range(25):
            await chat.write(str(number))
            await anyio.sleep(0.9)
        assert asked(model)


async def test_a_stop_of_the_service_waits_for_nothing_to_follow() -> None:
    model, chat = OfflineModel(), FakeChat(collect=60)
    async with serving(Agent(model), chat) as runtime:
        await chat.write("one")
        began = anyio.current_time()
    assert (chat.texts(), anyio.current_time() - began < 5) == (["one"], True)
    assert runtime.report is not None and runtime.report.clean


async def test_messages_of_a_backlog_stay_apart(tmp_path: Any) -> None:
    """They were written minutes apart, whenever they come out of the bus."""
    model, path = Slow(), tmp_path / "bus.db"
    chat = FakeChat(collect=0.8, answer_timeout=None)
    with anyio.fail_after(10_000):
        async with Agent(model.model, bus=SQLiteBus(path)).running(chat, enable_server=False, shutdown_timeout=1):
            await chat.write("stuck")
            for text in ("one", "two"):
                await anyio.sleep(60)
                await chat.write(text)
    again, offline = FakeChat(collect=0.8), OfflineModel()
    async with serving(Agent(offline, bus=SQLiteBus(path)), again):
        await again.until(lambda: len(again.texts()) == 3)
    assert asked(offline) == ["stuck", "one", "two"]


async def test_a_correction_of_what_waits_takes_its_place_and_a_later_one_is_told_of() -> None:
    model, chat = OfflineModel(), FakeChat(collect=0.8)
    async with serving(Agent(model), chat):
        message = await chat.write("what is 2 + 2")
        await chat.correct(message, "what is 2 + 3")
        await chat.until(lambda: chat.texts())
        await chat.correct(message, "what is 2 + 4")
        await chat.until(lambda: len(chat.texts()) == 2)
        await chat.correct(message, "what is 2 + 5")
        await chat.until(lambda: len(chat.texts()) == 3)
    assert [text.splitlines()[-1] for text in asked(model)] == [f"what is 2 + {number}" for number in (3, 4, 5)]
    assert asked(model)[1].startswith(f"The user corrects message {message.platform_message_id}")
    assert len(chat.handled_ids) == 4


# --- /stop


@pytest.mark.parametrize("where", ["model", "tool", "on_before_respond", "on_after_respond", "on_message_received"])
async def test_stop_ends_an_answer_within_a_second_wherever_it_hangs(where: str) -> None:
    async def hang(*_: object) -> None:
        await anyio.sleep_forever()

    class Hangs(InterfaceHook):
        holds_back_replies = False

    async def hang_once(message: InterfaceMessage, *_: object) -> None:
        if message.text == "stuck":
            await anyio.sleep_forever()

    async def lookup() -> str:
        """Look up."""
        await anyio.sleep_forever()
        return ""

    hook = Hangs()
    if where.startswith("on_"):
        setattr(hook, where, hang_once)

    async def reply(request: ModelRequest) -> ModelReply | str:
        if request.messages[-1].content != "stuck" or where.startswith("on_"):
            return request.messages[-1].content
        if where == "model":
            await anyio.sleep_forever()
        return ModelReply(tool_calls=(ToolCall("lookup", {}),))

    chat = FakeChat(hooks=[hook])
    async with serving(Agent(OfflineModel(reply), tools=[lookup]), chat) as runtime:
        await chat.write("stuck")
        await chat.write("waits")
        await chat.write("waits too")
        await anyio.sleep(5)
        began = anyio.current_time()
        assert (await chat.ask("/stop")).text == Texts().stopped_all.format(count=2)
        assert anyio.current_time() - began < 1
        assert (await chat.ask("go on")).text == "go on"
        assert (await chat.ask("/stop")).text == Texts().nothing_to_stop
    assert runtime.report is not None
    assert runtime.report.sources["fake"].withdrawn == 3
    assert len(chat.handled_ids) == 6


async def test_in_a_group_stop_ends_ones_own_and_else_what_there_is() -> None:
    slow, chat = Slow(), FakeChat(groups="all")
    async with serving(Agent(slow.model), chat):
        await chat.write("stuck", group="team", user="ann")
        await chat.write("from bob", group="team", user="bob")
        await anyio.sleep(1)
        assert (await chat.ask("/stop", group="team", user="bob")).text == Texts().stopped_all.format(count=1)
        assert (await chat.ask("/stop", group="team", user="bob")).text == Texts().stopped
        assert (await chat.ask("/stop", group="team", user="bob")).text == Texts().nothing_to_stop
    assert slow.begun == ["stuck"]


async def test_stop_reaches_what_waits_on_a_durable_bus(tmp_path: Any) -> None:
    slow, chat = Slow(), FakeChat(max_concurrent_requests=1)
    async with serving(Agent(slow.model, bus=SQLiteBus(tmp_path / "bus.db")), chat) as runtime:
        await chat.write("stuck", user="bob")
        for number in range(20):
            await chat.write(f"{number}")
        await anyio.sleep(1)
        await chat.ask("/stop")
        await anyio.sleep(1)
        await chat.ask("/stop", user="bob")
        assert (await chat.ask("hello")).text == "hello"
    assert slow.begun == ["stuck", "hello"]
    assert runtime.report is not None and runtime.report.sources["fake"].withdrawn == 21


async def test_strangers_stop_nothing_and_are_told_nothing() -> None:
    slow, chat = Slow(), FakeChat(groups="all", auth=AllowlistAuth(user_ids=["ann"]))
    async with serving(Agent(slow.model), chat):
        await chat.write("3 seconds", group="team", user="ann")
        for text in ("/stop", "/new", "/help", "/start"):
            await chat.write(text, group="team", user="eve")
        await chat.until(lambda: chat.texts("team"))
        await anyio.sleep(5)
    assert chat.texts("team") == ["3 seconds"]


# --- /new


def history(model: OfflineModel) -> list[str]:
    return [message.content for message in model.requests[-1].messages]


async def test_new_begins_at_once_while_an_answer_goes_on() -> None:
    slow, chat = Slow(), FakeChat()
    async with serving(Agent(slow.model), chat):
        await chat.ask("before")
        await chat.write("20 seconds")
        await anyio.sleep(1)
        began = anyio.current_time()
        await chat.ask("/new")
        assert anyio.current_time() - began < 1
        assert chat.texts()[-1] == Texts().new_conversation
        await chat.until(lambda: "20 seconds" in chat.texts())
        await chat.ask("after")
        assert history(slow.model) == ["after"]
        await chat.ask("more")
        assert history(slow.model) == ["after", "after", "more"]


@pytest.mark.parametrize("how", ["command", "remove"])
@pytest.mark.parametrize("message_between", [True, False], ids=["a message after it", "no message after it"])
async def test_new_holds_over_a_restart_and_on_every_replica(how: str, message_between: bool) -> None:
    store, model = MemorySessionStore(), OfflineModel()

    class Resets(InterfaceHook):
        async def on_message_received(self, message: InterfaceMessage) -> bool | None:
            if message.text == "reset":
                return not first.session_manager.remove(
                    message.platform, message.platform_user_id, message.platform_chat_id
                )
            return None

    first, other = FakeChat(hooks=[Resets()]), FakeChat()
    async with serving(Agent(model, sessions=store), first), serving(Agent(model, sessions=store), other):
        await first.ask("one")
        await other.ask("two")
        assert history(model) == ["one", "one", "two"]
        if how == "command":
            await first.ask("/new")
        else:
            await first.write("reset")
            await anyio.sleep(1)
        if message_between:
            await first.ask("three")
            assert history(model) == ["three"]
        await other.ask("four")
        assert history(model) == (["three", "three", "four"] if message_between else ["four"])
        before = history(model)
    again = FakeChat()
    async with serving(Agent(model, sessions=store), again):
        await again.ask("five")
        assert history(model) == [*before, "four", "five"]
        await again.ask("/new")
    last = FakeChat()
    async with serving(Agent(model, sessions=store), last):
        await last.ask("six")
        assert history(model) == ["six"]


async def test_what_is_written_right_behind_new_is_in_the_new_conversation() -> None:
    class Ponders(InterfaceHook):
        async def on_message_received(self, message: InterfaceMessage) -> None:
            await anyio.sleep(5 if message.command == "new" else 0)

    model, chat = OfflineModel(), FakeChat(hooks=[Ponders()])
    async with serving(Agent(model), chat):
        await chat.ask("one")
        await chat.write("/new")
        await chat.write("two")
        await chat.until(lambda: "two" in chat.texts())
        assert history(model) == ["two"]


async def test_new_in_the_middle_of_the_first_answer_holds_on_another_replica() -> None:
    store, slow = MemorySessionStore(), Slow()
    first, other = FakeChat(), FakeChat()
    async with serving(Agent(slow.model, sessions=store), first), serving(Agent(slow.model, sessions=store), other):
        await first.write("5 seconds")
        await anyio.sleep(1)
        await first.ask("/new")
        await other.ask("hello")
        assert history(slow.model) == ["hello"]
        await first.until(lambda: "5 seconds" in first.texts())
        await first.ask("and here")
        assert history(slow.model) == ["hello", "hello", "and here"]


async def test_the_new_conversation_is_that_of_one_user_in_one_chat() -> None:
    model, chat = OfflineModel("ok"), FakeChat(groups="all")
    async with serving(Agent(model), chat):
        for user, thread in (("ann", None), ("ann", "1"), ("bob", None)):
            await chat.ask("one", user=user, group="team", thread=thread)
        await chat.ask("/new", group="team", user="ann")
        for user, thread, expected in (("ann", None, 1), ("ann", "1", 3), ("bob", None, 3)):
            await chat.ask("two", user=user, group="team", thread=thread)
            assert len(history(model)) == expected


# --- commands


async def test_commands_of_users_answer_beside_the_chat() -> None:
    def balance(message: InterfaceMessage, session: InterfaceSession) -> str:
        """Show the balance.

        Of whoever asks.
        """
        return f"{message.text or 'all'} of {message.platform_user_id}, {len(session.messages)} messages"

    async def pick(message: InterfaceMessage, session: InterfaceSession) -> InterfaceResponse:
        session.session_state["picked"] = True
        return InterfaceResponse("Which?", buttons=((Button("A"), Button("B")),))

    async def nothing(message: InterfaceMessage, session: InterfaceSession) -> None:
        called.append(session.session_state.get("picked"))

    def fails(message: InterfaceMessage, session: InterfaceSession) -> str:
        raise ZeroDivisionError

    called: list[object] = []
    slow = Slow()
    chat = FakeChat(commands={"balance": balance, "pick": pick, "nothing": nothing, "fails": fails})
    async with serving(Agent(slow.model), chat):
        await chat.until(lambda: chat.menu)
        assert chat.menu == {
            "balance": "Show the balance.",
            "pick": "pick",
            "nothing": "nothing",
            "fails": "fails",
            "new": Texts().describe_new,
            "stop": Texts().describe_stop,
            "help": Texts().describe_help,
        }
        await chat.ask("hi")
        assert (await chat.ask("/balance  of May\nand June")).text == "of May\nand June of ann, 2 messages"
        assert (await chat.ask("/Balance@bot")).text == "all of ann, 2 messages"
        await chat.write("stuck")
        await anyio.sleep(1)
        shown = await chat.ask("/pick")
        assert [button.text for button in shown.buttons[0]] == ["A", "B"]
        assert (await chat.ask("/fails")).text == chat.config.error_message
        await chat.ask("/stop")
        await anyio.sleep(1)
        await chat.write("/nothing")
        await chat.until(lambda: called)
        assert "/balance: Show the balance." in (await chat.ask("/help")).text
        assert (await chat.ask("/start")).text.startswith("Hello!")
        used = await chat.command("balance", "of June")
        await chat.until(lambda: used.platform_message_id in chat.acknowledged)
        await chat.until(lambda: chat.texts()[-1] == "of June of ann, 2 messages")
        assert (await chat.ask("/unknown thing")).text == "/unknown thing"
    assert called == [True]


async def test_hooks_see_commands_first_and_may_keep_them() -> None:
    class Own(InterfaceHook):
        async def on_message_received(self, message: InterfaceMessage) -> bool | None:
            seen.append((message.command, message.text))
            return message.command != "new"

    seen: list[tuple[str | None, str | None]] = []
    chat = FakeChat(hooks=[Own()])
    async with serving(Agent("offline"), chat):
        await chat.write("/new")
        await chat.until(lambda: chat.handled_ids)
        await chat.ask("/help me")
    assert (seen, len(chat.texts())) == ([("new", None), ("help", "me")], 1)


async def test_a_command_that_comes_in_twice_is_carried_out_once() -> None:
    chat = FakeChat()
    async with serving(Agent("offline"), chat):
        await chat.ask("/help")
        message = InterfaceMessage("fake", "ann", "ann", "1", "/help")
        assert not await chat.deliver(message)
        await chat.ask("hello")
    assert len(chat.texts()) == 2


async def test_texts_can_be_set_and_left_out() -> None:
    texts = Texts(nothing_to_stop="Nichts", new_conversation="", too_many_messages="Warte {seconds} s")
    chat = FakeChat(texts=texts, rate_limit_messages_per_minute=3)
    async with serving(Agent("offline"), chat):
        assert (await chat.ask("/stop")).text == "Nichts"
        await chat.write("/new")
        await chat.until(lambda: len(chat.handled_ids) == 2)
        await chat.ask("one")
        assert (await chat.ask("two")).text.startswith("Warte 60 s")
    assert chat.texts()[:2] == ["Nichts", "one"]


# --- busy


async def test_busy_latest_answers_the_newest_of_what_waits() -> None:
    slow, chat = Slow(), FakeChat(busy="latest", groups="all")
    async with serving(Agent(slow.model), chat) as runtime:
        await chat.write("5 seconds")
        for text in ("one", "two", "three"):
            await anyio.sleep(1)
            await chat.write(text)
        await chat.until(lambda: "three" in chat.texts())
    assert slow.begun == ["5 seconds", "three"]
    assert runtime.report is not None and runtime.report.sources["fake"].withdrawn == 2


async def test_busy_interrupt_takes_the_place_of_what_is_answered() -> None:
    slow, chat = Slow(), FakeChat(busy="interrupt", groups="all")
    async with serving(Agent(slow.model), chat):
        await chat.write("50 seconds")
        await anyio.sleep(1)
        began = anyio.current_time()
        assert (await chat.ask("no, this")).text == "no, this"
        assert anyio.current_time() - began < 1
        await chat.write("3 seconds", group="team")
        await chat.write("of another user", group="team", user="bob")
        await chat.until(lambda: len(chat.texts("team")) == 2)
    assert chat.texts("team") == ["3 seconds", "of another user"]


async def test_ten_answers_that_hang_do_not_mute_the_bot(caplog: pytest.LogCaptureFixture) -> None:
    slow, errors = Slow(), list[str]()

    class Notes(InterfaceHook):
        async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
            errors.append(type(error).__name__)

    chat = FakeChat(answer_timeout=60, hooks=[Notes()])
    async with serving(Agent(slow.model), chat):
        for number in range(10):
            await chat.write("stuck", user=str(number))
        await anyio.sleep(1)
        assert (await chat.ask("hello")).text == "hello"
        await chat.until(lambda: len(chat.messages) == 11)
        assert {each.text for each in chat.messages} == {"hello", Texts().timed_out}
    assert errors == ["RunTimeout"] * 10
    assert "no answer within 60 s" in caplog.text


async def test_health_shows_chats_that_do_not_move() -> None:
    slow, chat = Slow(), FakeChat(answer_timeout=None, max_concurrent_requests=2)
    async with serving(Agent(slow.model), chat) as runtime:
        await chat.write("stuck", user="a")
        await anyio.sleep(400)
        assert runtime.health() == (
            True,
            {
                "status": "ok",
                "agent": runtime.name,
                "children": {
                    "events": {"state": "running"},
                    "fake": {"state": "running", "stuck_chats": 1},
                    **{name: state for name, state in runtime.health()[1]["children"].items() if name == "cron"},
                },
            },
        )
        await chat.write("stuck", user="b")
        await anyio.sleep(400)
        well, document = runtime.health()
        assert (well, document["children"]["fake"]["stuck_chats"]) == (False, 2)
        for user in ("a", "b"):
            await chat.ask("/stop", user=user)
        await anyio.sleep(1)
        assert runtime.health()[0]


async def test_a_reply_that_was_made_is_sent_however_long_that_takes() -> None:
    class Flooded(FakeChat):
        async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
            await anyio.sleep(500)
            await super().send(message, response)

    chat = Flooded(answer_timeout=60)
    async with serving(Agent("offline"), chat, shutdown_timeout=1000):
        assert (await chat.ask("hello")).text == "hello"


async def test_typing_goes_on_after_a_call_of_it_has_failed() -> None:
    slow, chat = Slow(), FakeChat()
    async with serving(Agent(slow.model), chat):
        chat.fail(InterfaceRateLimitError("slow down", retry_after=1), ZeroDivisionError())
        await chat.ask("13 seconds")
    assert chat.typed == 4


async def test_serving_fails_when_a_token_that_was_taken_is_refused_for_minutes() -> None:
    class Revoked(FakeChat):
        async def receive(self, accept: Accept) -> None:
            self.alive()
            if not revoked:
                revoked.append(anyio.current_time())
                await anyio.sleep(20)
            raise InterfaceAuthenticationError("the token is refused")

    revoked: list[float] = []
    with pytest.raises(ServeError, match="the token is refused"):
        await Agent("offline").aserve(Revoked(), handle_signals=False)
    assert 100 < anyio.current_time() - revoked[0] < 300


# --- what the model reads


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": "hi"}, "hi"),
        (
            {"text": "yes", "context": (QuotedMessage("reply", "Ann", "Shall we\ngo?"),)},
            "In reply to a message of Ann:\n> Shall we\n> go?\n\nyes",
        ),
        (
            {"text": "why", "context": (QuotedMessage("quote", None, "go"),)},
            "In reply to this part of a message:\n> go\n\nwhy",
        ),
        ({"context": (QuotedMessage("forward", "Bob", "News"),)}, "Forwarded from Bob:\n> News\n"),
        ({"context": (QuotedMessage("forward"),)}, "A forwarded message:\n"),
        ({"text": "here", "notes": ("location 52.52, 13.405",)}, "here\n[location 52.52, 13.405]"),
        ({"text": "all", "command": "report"}, "/report all"),
        (
            {"text": "see", "files": (Media(b"a,b\n1,2\n", media_type="text/csv", filename="t.csv"),)},
            "see\n[file: t.csv (text/csv, 8 bytes)]\na,b\n1,2\n[end of t.csv]",
        ),
        (
            {"files": (Media("ä".encode(), filename="message.txt"),)},
            "[file: message.txt (application/octet-stream, 2 bytes)]\nä\n[end of message.txt]",
        ),
        (
            {"files": (Media("ä".encode("utf-16"), filename="notes.txt"),)},
            "[file: notes.txt (application/octet-stream, 4 bytes)]\nä\n[end of notes.txt]",
        ),
        (
            {"files": (Media(b"\xff\0", filename="a.txt", media_type="text/plain"),)},
            "[file: a.txt (text/plain, 2 bytes)]",
        ),
        (
            {"files": (Media(b"x" * 100_001, filename="a.txt", media_type="text/plain"),)},
            "[file: a.txt (text/plain, 100001 bytes)]",
        ),
        ({"files": (Media(filename="a.txt", size=7),)}, "[file: a.txt (application/octet-stream, 7 bytes)]"),
    ],
    ids=[
        "text",
        "reply",
        "quote",
        "forward",
        "forward-only",
        "note",
        "command",
        "csv",
        "txt",
        "utf-16",
        "binary",
        "long",
        "absent",
    ],
)
async def test_the_model_reads_a_message_with_all_that_it_refers_to(fields: dict[str, Any], expected: str) -> None:
    model, chat = OfflineModel("ok"), FakeChat()
    async with serving(Agent(model), chat):
        await chat.ask(**fields)
    assert asked(model) == [expected]


async def test_images_of_what_is_replied_to_are_seen() -> None:
    model, chat = OfflineModel("ok"), FakeChat()
    image, other = Image(data=b"one"), Image(data=b"two")
    quoted = QuotedMessage("reply", "Ann", None, (other,), (Media(b"x", filename="a.md"),))
    async with serving(Agent(model), chat):
        await chat.ask("which?", images=(image,), context=(quoted,))
    assert model.requests[-1].messages[-1].images == (image, other)
    assert "> [1 image]\n> [file: a.md (application/octet-stream, 1 bytes)]\n> x\n" in asked(model)[0]


async def test_voice_is_text_to_the_model() -> None:
    async def transcribe(voice: Media) -> str:
        if voice.data == b"bad":
            raise ValueError("no voice")
        return " what is the time? "

    model, chat = OfflineModel("ok"), FakeChat(transcriber=transcribe)
    async with serving(Agent(model), chat):
        await chat.ask(audio=(Media(b"ogg", media_type="audio/ogg", duration=3),))
        await chat.ask("and?", audio=(Media(b"bad", media_type="audio/ogg"), Media(media_type="audio/ogg")))
    line = "[audio: unnamed (audio/ogg, 3 s, 3 bytes)]"
    assert asked(model)[0] == f"what is the time?\n{line}"
    assert asked(model)[1].startswith("and?\n[audio:")


# --- buttons


def choose() -> ToolResult:
    """Choose."""
    return ToolResult("shown", buttons=[[Button("Yes", "y"), Button("No")], Button("Page", url="https://example.com")])


def script(request: ModelRequest) -> ModelReply | str:
    last = request.messages[-1]
    if last.role == "user" and last.content == "ask":
        return ModelReply(tool_calls=(ToolCall("choose", {}),))
    return f"You said {last.content}" if last.role == "user" else "Shall we?"


async def test_buttons_of_tools_are_shown_and_a_press_is_a_message() -> None:
    model, chat = OfflineModel(script), FakeChat()
    async with serving(Agent(model, tools=[choose]), chat):
        shown = await chat.ask("ask")
        assert shown.buttons == ((Button("Yes", "y"), Button("No")), (Button("Page", url="https://example.com"),))
        await chat.press("Yes")
        await chat.until(lambda: len(chat.texts()) == 2)
        await chat.press("Yes")
        await chat.until(lambda: len(chat.texts()) == 3)
        assert chat.acknowledged == [shown.id, shown.id]
    assert chat.texts() == ["Shall we?", "You said Yes", "You said Yes"]


@pytest.mark.parametrize("said", [InterfaceResponse("Thanks!"), False, None], ids=["response", "false", "none"])
async def test_on_button_may_answer_in_place_of_a_run(said: Any) -> None:
    class Presses(InterfaceHook):
        async def on_button(self, message: InterfaceMessage, session: InterfaceSession) -> Any:
            pressed.append(message.button)
            session.session_state["pressed"] = message.button
            return said

    pressed: list[str | None] = []
    model, chat = OfflineModel(script), FakeChat(hooks=[InterfaceHook(), Presses()])
    async with serving(Agent(model, tools=[choose]), chat):
        await chat.ask("ask")
        await chat.press("No")
        await chat.press("Yes")
        await anyio.sleep(1)
        session = chat.session_manager.get("fake", "ann", "ann")
        assert session is not None and session.session_state["pressed"] == "y"
    answers = ["You said No", "You said Yes"] if said is None else [] if said is False else ["Thanks!", "Thanks!"]
    assert (pressed, chat.texts()[1:]) == (["No", "y"], answers)


async def test_a_platform_without_buttons_shows_them_as_text() -> None:
    class Plain(FakeChat):
        has_buttons = False

    chat = Plain()
    async with serving(Agent(OfflineModel(script), tools=[choose]), chat):
        assert (await chat.ask("ask")).text == "Shall we?\n\n- Yes\n- No\n- Page: https://example.com"


def test_a_button_says_something_and_does_one_thing() -> None:
    with pytest.raises(ValueError, match="says something"):
        Button(" ")
    with pytest.raises(ValueError, match="not both"):
        Button("x", "y", "https://example.com")
    assert ToolResult("x", buttons=[[], Button("a")]).buttons == ((Button("a"),),)
