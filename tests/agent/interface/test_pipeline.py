"""A message's way through an interface, step by step, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import sniffio
from pydantic import BaseModel

from definable.agent import Agent, RunContext
from definable.agent.auth import AllowlistAuth, AuthContext, AuthRequest
from definable.agent.bus import MemoryBus
from definable.agent.interface import (
    Accept,
    AllowlistHook,
    BaseInterface,
    InterfaceConfig,
    InterfaceHook,
    InterfaceMessage,
    InterfaceResponse,
    InterfaceSession,
    LoggingHook,
    Media,
    SessionManager,
    SQLiteIdentityResolver,
)
from definable.agent.interface.pipeline import AgentHandle
from definable.agent.runtime.supervisor import InterfaceState, Supervisor
from definable.agent.session import Session, SQLiteSessionStore
from definable.agent.work import WorkTracker
from definable.concurrency.clock import SystemClock, use_clock
from definable.errors import ConfigurationError, ModelError, StorageError
from definable.model import Image, Message, ModelReply, OfflineModel, ToolCall
from definable.testing import VIRTUAL_BACKENDS, run, virtual_time

pytestmark = pytest.mark.anyio

SORRY = "Sorry, something went wrong. Please try again."


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Chat(BaseInterface):
    """A platform in memory."""

    def __init__(self, config: InterfaceConfig | None = None, **options: Any) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="chat") if config is None else config, **options)
        self.sent: list[str | None] = []
        self.responses: list[InterfaceResponse] = []
        self.typed: list[float] = []
        self.ended: list[str] = []
        self.accept: Accept | None = None
        self._number = 0

    async def receive(self, accept: Accept) -> None:
        self.accept = accept
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.sent.append(response.content)
        self.responses.append(response)

    async def typing(self, message: InterfaceMessage) -> None:
        self.typed.append(anyio.current_time())

    def handled(self, message: InterfaceMessage) -> None:
        self.ended.append(message.platform_message_id)

    async def say(self, text: str | None, *, user: str = "ann", chat: str = "home", **fields: Any) -> None:
        """A user writes; returns once the message is handled."""
        assert self.accept is not None
        self._number += 1
        await self.accept(InterfaceMessage("chat", user, chat, str(self._number), text=text, **fields))
        await anyio.sleep(0.5)


@asynccontextmanager
async def serving(agent: Agent, chat: Chat) -> AsyncGenerator[Supervisor, None]:
    """The interface under its supervisor, with an agent behind it."""
    host = AgentHandle(agent.runner.run, sessions=agent.runner.sessions, auth=lambda: agent.auth)
    bus = MemoryBus()
    supervisor = Supervisor(chat, host, bus, WorkTracker())

    async def work() -> None:
        async for delivery in deliveries:
            await supervisor.message_queue.take(delivery)

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        tasks.start_soon(supervisor.run)
        await anyio.sleep(0.1)
        yield supervisor
        supervisor.stop_receiving()
        await bus.drain()
        supervisor.release()
        await supervisor.ended.wait()
        tasks.cancel_scope.cancel()


class Records(InterfaceHook):
    """Notes down what it is told, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.sessions: list[InterfaceSession] = []

    async def on_message_received(self, message: InterfaceMessage) -> bool:
        self.log.append(f"received {message.text}")
        return message.text != "stop"

    async def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> None:
        self.log.append(f"before {message.text}")
        self.sessions.append(session)

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> None:
        self.log.append(f"after {response.content}")

    async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
        self.log.append(f"error {type(error).__name__}")


# --- hooks


async def test_hooks_are_called_around_a_run() -> None:
    records = Records()
    chat = Chat(hooks=[records, InterfaceHook(), LoggingHook()])
    async with serving(Agent("offline"), chat):
        await chat.say("hi")
    assert records.log == ["received hi", "before hi", "after hi"]
    assert (chat.sent, chat.ended) == (["hi"], ["1"])


async def test_false_stops_a_message_without_a_word() -> None:
    model, records = OfflineModel(), Records()
    chat = Chat(hooks=[records])
    async with serving(Agent(model), chat):
        await chat.say("stop")
    assert (records.log, chat.sent, list(model.requests), chat.ended) == (["received stop"], [], [], ["1"])


async def test_hooks_may_replace_the_message_and_the_response() -> None:
    class Shouts(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> InterfaceMessage:
            return InterfaceMessage(**{name: getattr(message, name) for name in message.__slots__} | {"text": "you"})

        def on_after_respond(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
        ) -> InterfaceResponse:
            return InterfaceResponse(f"{response.content}!")

    chat = Chat(hooks=[Shouts()])
    async with serving(Agent("offline"), chat):
        await chat.say("me")
    assert chat.sent == ["you!"]


@pytest.mark.parametrize("method", ["on_message_received", "on_before_respond", "on_after_respond"])
async def test_a_hook_that_raises_ends_the_message_and_no_other(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(message: InterfaceMessage, *rest: object) -> None:
        if message.text == "bad":
            raise ZeroDivisionError

    broken, records = InterfaceHook(), Records()
    setattr(broken, method, fail)
    chat = Chat(hooks=[broken, records])
    async with serving(Agent("offline"), chat):
        await chat.say("bad")
        await chat.say("good")
    assert chat.sent == [SORRY, "good"]
    assert "error ZeroDivisionError" in records.log
    assert caplog.text.count("message 1 was not answered") == 1


async def test_sys_exit_of_hooks_is_a_failure_that_the_user_and_the_other_hooks_are_told() -> None:
    class Leaves(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> None:
            sys.exit(3)

        async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
            sys.exit(3)

    records = Records()
    chat = Chat(hooks=[Leaves(), records])
    async with serving(Agent("offline"), chat):
        await chat.say("hi")
    assert (chat.sent, records.log[-1]) == ([SORRY], "error RuntimeError")


async def test_a_failing_on_error_hook_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(InterfaceHook):
        async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
            raise ZeroDivisionError

    records = Records()
    chat = Chat(hooks=[Broken(), records])
    async with serving(Agent(OfflineModel([ValueError("oh")])), chat):
        await chat.say("hi")
    assert (chat.sent, records.log[-1]) == ([SORRY], "error ValueError")


async def test_a_failing_run_is_one_line_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def slow(context: RunContext) -> None:
        await anyio.sleep(60)

    agent = Agent("offline", run_timeout=1)
    agent.before_request(slow)
    chat = Chat(InterfaceConfig(collect=0, platform="chat", error_message="no"))
    async with serving(agent, chat):
        await chat.say("hi")
        await anyio.sleep(5)
    assert chat.sent == ["no"]
    lines = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [line.exc_info for line in lines] == [None]


async def test_the_allowlist_hook_lets_in_the_listed() -> None:
    chat = Chat(hooks=[AllowlistHook({"ann", 7}, {"home"})])
    async with serving(Agent("offline"), chat):
        for user, room in (("ann", "home"), ("bob", "home"), ("ann", "away"), ("7", "home")):
            await chat.say(f"{user} {room}", user=user, chat=room)
    assert chat.sent == ["ann home", "7 home"]


async def test_the_allowlist_hook_leaves_out_what_it_is_not_told() -> None:
    anywhere, anybody = Chat(hooks=[AllowlistHook("ann")]), Chat(hooks=[AllowlistHook(allowed_chat_ids=["home"])])
    for chat, heard in ((anywhere, ["ann home", "ann away"]), (anybody, ["ann home", "bob home"])):
        async with serving(Agent("offline"), chat):
            for user, room in (("ann", "home"), ("bob", "home"), ("ann", "away")):
                await chat.say(f"{user} {room}", user=user, chat=room)
        assert chat.sent == heard


async def test_the_logging_hook_names_what_failed_and_says_nothing_of_the_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat = Chat(hooks=[LoggingHook()])
    async with serving(Agent(OfflineModel([ValueError("no")])), chat):
        await chat.say("my secret")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("definable.agent.interface")]
    assert "chat: message 1 failed: ValueError: no" in said
    assert "my secret" not in caplog.text


# --- auth


async def test_the_agent_s_provider_decides_unless_the_interface_has_its_own() -> None:
    agent = Agent("offline", auth=AllowlistAuth({"ann"}))
    inherits, own, open_to_all = Chat(), Chat(auth=AllowlistAuth({"bob"})), Chat(auth=False)
    for chat in (inherits, own, open_to_all):
        async with serving(agent, chat):
            await chat.say("ann", user="ann")
            await chat.say("bob", user="bob", chat="other")
    assert (inherits.sent, own.sent, open_to_all.sent) == (["ann"], ["bob"], ["ann", "bob"])


async def test_a_provider_that_raises_denies(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def authenticate(self, request: AuthRequest) -> AuthContext | None:
            raise ZeroDivisionError

    model = OfflineModel()
    chat = Chat(auth=Broken())
    async with serving(Agent(model), chat):
        await chat.say("hi")
    assert (chat.sent, list(model.requests)) == ([SORRY], [])


# --- rate limit


async def test_a_user_past_the_limit_is_told_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    records = Records()
    chat = Chat(InterfaceConfig(collect=0, platform="chat", rate_limit_messages_per_minute=3), hooks=[records])
    async with serving(Agent("offline"), chat):
        for number in range(10):
            await chat.say(f"{number}")
        await chat.say("other", user="bob")
        assert chat.sent == ["0", "1", "2", "Too many messages. Please wait 58 seconds.", "other"]
        await anyio.sleep(60)
        await chat.say("again")
    assert chat.sent[-1] == "again"
    assert records.log.count("error InterfaceRateLimitError") == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


# --- identity and session


async def test_a_linked_user_is_one_on_every_platform_and_keeps_conversations_apart(tmp_path: Path) -> None:
    users: list[str | None] = []
    agent = Agent("offline")
    agent.before_request(lambda context: users.append(context.user_id))
    resolver = SQLiteIdentityResolver(tmp_path / "identities.db")
    chat = Chat(identity_resolver=resolver)
    async with serving(agent, chat):
        await chat.say("one")
        await resolver.link("chat", "ann", "ann@example.com")
        await chat.say("two")
        assert await resolver.get_identities("ann@example.com") == [("chat", "ann")]
        assert await resolver.unlink("chat", "ann")
        assert not await resolver.unlink("chat", "ann")
        await chat.say("three")
    assert users == ["chat:ann", "ann@example.com", "chat:ann"]
    assert chat.sent == ["one", "two", "three"]


async def test_every_user_of_a_chat_has_a_conversation_of_their_own() -> None:
    model, records = OfflineModel(), Records()
    chat = Chat(hooks=[records])
    async with serving(Agent(model), chat):
        await chat.say("one", user="ann")
        await chat.say("two", user="bob")
        await chat.say("three", user="ann")
    assert [message.content for message in model.requests[-1].messages] == ["one", "one", "three"]
    session = records.sessions[-1]
    assert [message.content for message in session.messages] == ["one", "one", "three", "three"]
    assert session.last_run_output is not None and session.last_run_output.session_id == session.session_id


async def test_a_removed_conversation_begins_anew() -> None:
    model = OfflineModel()
    chat = Chat()
    async with serving(Agent(model), chat):
        await chat.say("one")
        assert chat.session_manager.remove("chat", "ann", "home")
        await chat.say("two")
    assert [message.content for message in model.requests[-1].messages] == ["two"]


async def test_a_conversation_goes_on_after_a_restart_where_sessions_last(tmp_path: Path) -> None:
    model = OfflineModel()
    for text in ("one", "two"):
        chat = Chat()
        async with serving(Agent(model, sessions=SQLiteSessionStore(tmp_path / "sessions.db")), chat):
            await chat.say(text)
    assert [message.content for message in model.requests[-1].messages] == ["one", "one", "two"]


async def test_a_conversation_goes_on_though_the_store_failed_at_first(tmp_path: Path) -> None:
    class FailsOnce(SQLiteSessionStore):
        failures = 0

        async def load(self, session_id: str) -> Session | None:
            if self.failures:
                self.failures -= 1
                raise StorageError("the disk is away")
            return await super().load(session_id)

    model, path = OfflineModel(), tmp_path / "sessions.db"
    chat = Chat()
    async with serving(Agent(model, sessions=FailsOnce(path)), chat):
        await chat.say("one")
    restarted, store = Chat(), FailsOnce(path)
    store.failures = 1
    async with serving(Agent(model, sessions=store), restarted):
        await restarted.say("two")
        await restarted.say("three")
    assert restarted.sent == [SORRY, "three"]
    assert [message.content for message in model.requests[-1].messages] == ["one", "one", "three"]


async def test_a_conversation_that_is_older_than_a_store_s_ttl_goes_on_after_a_restart(tmp_path: Path) -> None:
    class Later(SystemClock):
        seconds = 0.0

        def now(self) -> float:
            return super().now() + self.seconds

    model, clock = OfflineModel(), Later()

    def agent() -> Agent:
        return Agent(model, sessions=SQLiteSessionStore(tmp_path / "sessions.db", ttl=3600, clock=clock.now))

    chat, restarted = Chat(), Chat()
    with use_clock(clock):
        async with serving(agent(), chat):
            await chat.say("one")
            clock.seconds += 2000
            await chat.say("two")
        clock.seconds += 2000
        async with serving(agent(), restarted):
            await restarted.say("three")
    assert [message.content for message in model.requests[-1].messages] == ["one", "one", "two", "two", "three"]


async def test_two_bots_of_one_platform_keep_their_conversations_apart_also_over_a_restart(tmp_path: Path) -> None:
    model = OfflineModel()
    for texts in (("to the first", "to the second"), ("again", "again")):
        bots = Chat(), Chat()
        agent = Agent(model, sessions=SQLiteSessionStore(tmp_path / "sessions.db"))
        async with agent.running(*bots, enable_server=False):
            await anyio.sleep(0.1)
            for bot, text in zip(bots, texts, strict=True):
                await bot.say(text)
    said = [[message.content for message in request.messages] for request in model.requests]
    assert said[:2] == [["to the first"], ["to the second"]]
    assert said[2:] == [[text, text, "again"] for text in ("to the first", "to the second")]


async def test_replicas_go_on_with_the_conversation_that_one_of_them_began_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, now = OfflineModel(), [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def replica() -> tuple[Agent, Chat]:
        agent = Agent(model, sessions=SQLiteSessionStore(tmp_path / "sessions.db"))
        return agent, Chat(session_manager=SessionManager(3600, clock=lambda: now[0]))

    (agent, one), (other_agent, other) = replica(), replica()
    async with serving(agent, one), serving(other_agent, other):
        await one.say("old")
        await other.say("old too")
        now[0] += 3601
        await one.say("new")
        await other.say("newer")
    said = [[message.content for message in request.messages] for request in model.requests]
    assert said[1:] == [["old", "old", "old too"], ["new"], ["new", "new", "newer"]]


async def test_two_services_that_share_a_store_keep_the_conversations_of_one_user_apart(tmp_path: Path) -> None:
    said: list[list[str]] = []
    for name in ("first", "second", "first", "second"):
        chat, model = Chat(), OfflineModel()
        agent = Agent(model, name=name, sessions=SQLiteSessionStore(tmp_path / "sessions.db"))
        async with agent.running(chat, enable_server=False):
            await anyio.sleep(0.1)
            await chat.say(f"to the {name}")
        said.append([message.content for message in model.requests[-1].messages])
    assert said == [["to the first"], ["to the second"], ["to the first"] * 3, ["to the second"] * 3]


async def test_history_is_bounded() -> None:
    model = OfflineModel()
    chat = Chat(InterfaceConfig(collect=0, platform="chat", max_session_history=4))
    async with serving(Agent(model), chat):
        for number in range(8):
            await chat.say(f"{number}")
    assert [message.content for message in model.requests[-1].messages] == ["5", "5", "6", "6", "7"]


async def test_state_goes_between_hooks_and_tools() -> None:
    class Counts(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> None:
            session.session_state["hook"] = session.session_state.get("hook", 0) + 1

    seen: list[dict[str, Any]] = []

    def count(context: RunContext) -> None:
        context.session_state["tool"] = context.session_state.get("tool", 0) + 1
        seen.append(dict(context.session_state))

    agent, records = Agent("offline"), Records()
    agent.before_request(count)
    chat = Chat(hooks=[Counts(), records])
    async with serving(agent, chat):
        await chat.say("one")
        await chat.say("two")
    assert seen == [{"hook": 1, "tool": 1}, {"hook": 2, "tool": 2}]
    assert records.sessions[-1].session_state == {"hook": 2, "tool": 2}


class MessageCount(InterfaceHook):
    """Counts messages in the session's state."""

    async def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> None:
        session.session_state["count"] = session.session_state.get("count", 0) + 1


async def test_what_replicas_and_runs_elsewhere_leave_in_a_state_is_seen_by_hooks_and_kept(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def look(context: RunContext) -> None:
        seen.append(dict(context.session_state))
        context.session_state[str(context.input)] = True

    def replica() -> tuple[Agent, Chat]:
        agent = Agent("offline", sessions=SQLiteSessionStore(tmp_path / "sessions.db"))
        agent.before_request(look)
        return agent, Chat(hooks=[MessageCount()])

    (agent, one), (other_agent, other) = replica(), replica()
    async with serving(agent, one), serving(other_agent, other):
        await one.say("a")
        await other.say("b")
        session = one.session_manager.get("chat", "ann", "home")
        assert session is not None
        await agent.arun("elsewhere", session_id=session.session_id, user_id=session.user_id)
        await one.say("c")
        assert {"a", "b", "elsewhere"} <= seen[-1].keys() and seen[-1]["count"] == 3
        assert [message.content for message in session.messages] == ["a", "a", "b", "b", *["elsewhere"] * 2, "c", "c"]
        assert await agent.sessions.delete(session.session_id)
        await one.say("d")
        assert seen[-1] == {"count": 1}


async def test_what_runs_elsewhere_leave_in_a_state_is_kept_also_after_a_run_that_failed() -> None:
    seen: list[dict[str, Any]] = []

    def look(context: RunContext) -> None:
        seen.append(dict(context.session_state))
        context.session_state[str(context.input)] = True

    model = OfflineModel(["a", ModelError("down"), "elsewhere", "c"])
    agent, chat = Agent(model), Chat(hooks=[MessageCount()])
    agent.before_request(look)
    async with serving(agent, chat):
        await chat.say("a")
        await chat.say("fails")
        session = chat.session_manager.get("chat", "ann", "home")
        assert session is not None
        await agent.arun("elsewhere", session_id=session.session_id, user_id=session.user_id)
        await chat.say("c")
    assert chat.sent == ["a", SORRY, "c"]
    assert seen[-1] == {"a": True, "elsewhere": True, "count": 3}


async def test_what_a_hook_changes_in_a_state_after_a_run_undoes_nothing_of_what_runs_elsewhere_leave() -> None:
    class Counts(InterfaceHook):
        async def on_after_respond(
            self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
        ) -> None:
            session.session_state["count"] = session.session_state.get("count", 0) + 1

    seen: list[dict[str, Any]] = []

    def look(context: RunContext) -> None:
        seen.append(dict(context.session_state))
        context.session_state[str(context.input)] = True

    agent, chat = Agent("offline"), Chat(hooks=[Counts()])
    agent.before_request(look)
    async with serving(agent, chat):
        await chat.say("a")
        session = chat.session_manager.get("chat", "ann", "home")
        assert session is not None
        await agent.arun("elsewhere", session_id=session.session_id, user_id=session.user_id)
        await chat.say("b")
    assert seen == [{}, {"a": True, "count": 1}, {"a": True, "count": 1, "elsewhere": True}]


async def test_a_conversation_goes_on_after_a_run_that_took_longer_than_the_silence_that_ends_one() -> None:
    model, now = OfflineModel(), [1000.0]
    agent = Agent(model)

    @agent.before_request
    def take_long(context: RunContext) -> None:
        now[0] += 50

    chat = Chat(session_manager=SessionManager(60, clock=lambda: now[0]))
    async with serving(agent, chat):
        await chat.say("one")
        now[0] += 20
        await chat.say("two")
        now[0] += 61
        await chat.say("three")
    said = [[message.content for message in request.messages] for request in model.requests]
    assert said == [["one"], ["one", "one", "two"], ["three"]]


def test_sessions_expire_are_bounded_and_counted() -> None:
    now = [1000.0]
    manager = SessionManager(60, max_sessions=3, clock=lambda: now[0])
    first = manager.get_or_create("p", "u", "c")
    assert manager.get_or_create("p", "u", "c") is first
    now[0] += 61
    assert manager.get("p", "u", "c") is None
    second = manager.get_or_create("p", "u", "c")
    assert second.session_id != first.session_id
    now[0] += 30
    for number in range(3):
        manager.get_or_create("p", f"{number}", "c")
    assert manager.get("p", "u", "c") is None
    assert manager.active_session_count == 3
    now[0] += 61
    assert manager.active_session_count == 0
    assert manager.cleanup_expired() == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"session_ttl_seconds": 0}, "session_ttl_seconds=0: seconds"), ({"max_sessions": 0}, "max_sessions=0: at least")],
)
def test_a_session_manager_without_time_or_room_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SessionManager(**options)


def test_a_session_is_touched_and_its_history_cut_where_somebody_asks() -> None:
    call = ToolCall("look_up", {}, id="1")
    session = InterfaceSession("s", "chat", "ann", "home", last_activity_at=0.0)
    session.messages = (
        Message("user", "one"),
        Message("assistant", "", (call,)),
        Message("tool", "7", tool_call_id="1"),
        Message("assistant", "two"),
        Message("user", "three"),
        Message("assistant", "four"),
    )
    session.touch()
    session.truncate_history(4)  # they would begin with the call's result
    assert session.last_activity_at == pytest.approx(time.time(), abs=60)
    assert [message.content for message in session.messages] == ["three", "four"]


# --- the run


async def test_the_model_sees_images_and_is_told_of_the_rest() -> None:
    model = OfflineModel("ok")
    chat = Chat()
    async with serving(Agent(model), chat):
        await chat.say("look", images=(Image(data=b"x"),), files=(Media(b"abc", filename="a.bin"),))
    asked = model.requests[-1].messages[-1]
    assert asked.images == (Image(data=b"x"),)
    assert asked.content == "look\n[file: a.bin (application/octet-stream, 3 bytes)]"


async def test_tools_find_the_message_in_the_run_s_metadata() -> None:
    found: list[Any] = []
    agent = Agent("offline")
    agent.before_request(lambda context: found.append(context.metadata["message"]))
    chat = Chat()
    async with serving(agent, chat):
        await chat.say("hi")
    assert found[0].platform_chat_id == "home"


async def test_an_object_is_sent_as_json() -> None:
    class Answer(BaseModel):
        number: int

    chat = Chat()
    async with serving(Agent(OfflineModel('{"number": 7}'), output_type=Answer), chat):
        await chat.say("hi")
    assert chat.sent == ['{"number":7}']


@pytest.mark.parametrize("shown", [True, False])
async def test_typing_is_shown_while_the_agent_runs(shown: bool) -> None:
    chat = Chat(InterfaceConfig(collect=0, platform="chat", typing_indicator=shown))
    async with serving(Agent(OfflineModel(latency=10)), chat):
        await chat.say("hi")
        await anyio.sleep(60)
    assert len(chat.typed) == (3 if shown else 0)


async def test_a_long_reply_comes_in_parts_with_the_media_last() -> None:
    class Adds(InterfaceHook):
        async def on_after_respond(
            self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
        ) -> InterfaceResponse:
            return InterfaceResponse("one two three", files=(Media(b"x"),))

    chat = Chat(InterfaceConfig(collect=0, platform="chat", max_message_length=7), hooks=[Adds()])
    async with serving(Agent("offline"), chat):
        await chat.say("hi")
    assert chat.sent == ["one two", "three"]
    assert [len(response.files) for response in chat.responses] == [0, 1]


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "error", "SAFETY_2"])
async def test_a_reply_that_is_no_answer_is_not_silence(reason: str) -> None:
    chat = Chat()
    text = "  \n" if reason == "stop" else "The answer is"
    async with serving(Agent(OfflineModel(ModelReply(text, finish_reason=reason))), chat):
        await chat.say("hi")
    assert (chat.sent, chat.ended) == ([chat.config.error_message], ["1"])


async def test_an_empty_response_is_not_sent() -> None:
    class Empties(InterfaceHook):
        async def on_after_respond(
            self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
        ) -> InterfaceResponse:
            return InterfaceResponse("  \n")

    chat = Chat(hooks=[Empties()])
    async with serving(Agent("offline"), chat):
        await chat.say("hi")
    assert (chat.sent, chat.ended) == ([], ["1"])


async def test_images_of_tools_are_sent_with_the_reply() -> None:
    def draw() -> bytes:
        return b"\x89PNG\r\n\x1a\n..."

    chat = Chat()
    async with serving(
        Agent(OfflineModel([ModelReply(tool_calls=(ToolCall("draw"),)), "here it is"]), tools=[draw]), chat
    ):
        await chat.say("draw")
    assert chat.sent == ["here it is"]
    assert [image.media_type for image in chat.responses[-1].images] == ["image/png"]


async def test_a_message_that_comes_in_twice_is_answered_once() -> None:
    chat = Chat()
    async with serving(Agent("offline"), chat):
        assert chat.accept is not None
        message = InterfaceMessage("chat", "ann", "home", "7", text="hi")
        assert [await chat.accept(message) for _ in range(3)] == [True, False, False]
        await anyio.sleep(1)
    assert chat.sent == ["hi"]


# --- under the supervisor


async def test_a_silent_platform_shows_in_health() -> None:
    class Silent(Chat):
        max_silence = 100.0  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    chat = Silent()
    async with serving(Agent("offline"), chat) as supervisor:
        await anyio.sleep(90)
        chat.alive()
        await anyio.sleep(90)
        assert (supervisor.state, supervisor.is_well) == (InterfaceState.RUNNING, True)
        await anyio.sleep(90)
        assert (supervisor.state, supervisor.is_well) == (InterfaceState.STALLED, False)
        chat.alive()
        assert supervisor.is_well


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_an_interface_that_is_served_again_on_another_event_loop_shows_when_it_is_silent(backend: str) -> None:
    class Restless(Chat):
        @property
        def max_silence(self) -> float:
            return 100

    chat = Restless()

    async def heard_of_after_an_hour() -> None:
        async with serving(Agent("offline"), chat):
            await anyio.sleep(3600)
            chat.alive()

    async def never_heard_of() -> InterfaceState:
        async with serving(Agent("offline"), chat) as supervisor:
            await anyio.sleep(200)
            return supervisor.state

    run(heard_of_after_an_hour, backend=backend)
    assert run(never_heard_of, backend=backend) is InterfaceState.STALLED


async def test_an_interface_that_cannot_open_fails_for_good(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "no.db"
    path.write_bytes(b"this is no database" * 100)
    chat = Chat(identity_resolver=SQLiteIdentityResolver(path))
    supervisor = Supervisor(chat, AgentHandle(Agent("offline").runner.run), MemoryBus(), WorkTracker())
    await supervisor.run()
    assert (supervisor.state, supervisor.ended.is_set()) == (InterfaceState.FAILED, True)
    assert caplog.text.count("has failed for good") == 1
    assert "Traceback" not in caplog.text


async def test_typing_that_awaits_a_cancelled_task_ends_the_typing_alone() -> None:
    if sniffio.current_async_library() == "trio":
        pytest.skip("trio lets nobody cancel another task")

    class Stray(Chat):
        async def typing(self, message: InterfaceMessage) -> None:
            keeper = asyncio.ensure_future(anyio.sleep_forever())
            keeper.cancel()
            await keeper

    chat = Stray()
    async with serving(Agent(OfflineModel(latency=0.1)), chat):
        await chat.say("hi")
    assert chat.sent == ["hi"]


async def test_typing_that_exits_ends_the_typing_alone() -> None:
    class Leaves(Chat):
        async def typing(self, message: InterfaceMessage) -> None:
            sys.exit(3)

    chat = Leaves()
    async with serving(Agent(OfflineModel(latency=0.1)), chat):
        await chat.say("hi")
    assert chat.sent == ["hi"]
