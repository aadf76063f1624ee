"""A chat and runs elsewhere in one session: nothing that either has said is lost, over every store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent, RunContext
from definable.agent.interface import (
    Accept,
    BaseInterface,
    InterfaceConfig,
    InterfaceHook,
    InterfaceMessage,
    InterfaceResponse,
)
from definable.agent.interface import InterfaceSession as ChatSession
from definable.agent.session import MemorySessionStore, RedisSessionStore, Session, SessionStore, SQLiteSessionStore
from definable.agent.trigger import EventTrigger
from definable.errors import ModelError
from definable.model import ModelReply, ModelRequest, OfflineModel, ToolCall

pytestmark = pytest.mark.anyio

KEY = "interface:chat:home:ann"

NewStore = Callable[[], SessionStore]
"""A store that shares what it keeps with the others that it gave."""


@pytest.fixture(params=["memory", "sqlite", "redis"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewStore]:
    if request.param == "redis":
        server = request.getfixturevalue("redis")
        yield lambda: RedisSessionStore(server.url)
    elif request.param == "sqlite":
        yield lambda: SQLiteSessionStore(tmp_path / "sessions.db")
    else:
        store = MemorySessionStore()
        yield lambda: store


class Chat(BaseInterface):
    """A platform in memory; `say` returns when the message was answered."""

    def __init__(self, *hooks: InterfaceHook, **config: Any) -> None:
        config = {"platform": "chat", "collect": 0, "rate_limit_messages_per_minute": 100_000, **config}
        super().__init__(InterfaceConfig(**config), hooks=hooks)
        self.sent: list[str | None] = []
        self._answered: dict[str, anyio.Event] = {}
        self._accept: Accept | None = None
        self._ready = anyio.Event()

    async def receive(self, accept: Accept) -> None:
        self._accept = accept
        self._ready.set()
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.sent.append(response.content)
        self._answered[message.platform_message_id].set()

    async def say(self, text: str, number: int = 0) -> None:
        await self._ready.wait()
        assert self._accept is not None
        name = f"{text} {number}"
        self._answered[name] = anyio.Event()
        await self._accept(InterfaceMessage("chat", "ann", "home", name, text=text))
        await self._answered[name].wait()

    @property
    def session(self) -> ChatSession:
        session = self.session_manager.get("chat", "ann", "home")
        assert session is not None
        return session


@asynccontextmanager
async def serving(agent: Agent, chat: Chat, **options: Any) -> AsyncGenerator[None, None]:
    with anyio.fail_after(60):
        async with agent.running(chat, enable_server=False, **options):
            yield


class CountsMessages(InterfaceHook):
    async def on_before_respond(self, message: InterfaceMessage, session: ChatSession) -> None:
        session.session_state["count"] = session.session_state.get("count", 0) + 1


def said(session: Session | None) -> list[str]:
    assert session is not None
    return [message.content for message in session.messages if message.role == "user"]


@pytest.mark.parametrize("hooks", [(), (CountsMessages(),)], ids=["no hook", "a hook"])
async def test_neither_a_chat_nor_runs_elsewhere_lose_what_was_said(
    new_store: NewStore, hooks: tuple[InterfaceHook, ...]
) -> None:
    store, chat, number = new_store(), Chat(*hooks, max_session_history=1000), 30
    agent = Agent("offline", sessions=store, max_history=1000)
    async with serving(agent, chat):
        await chat.say("first")

        async def talk() -> None:
            for n in range(number):
                await chat.say(f"chat {n}")

        async def run() -> None:
            for n in range(number):
                await agent.arun(f"run {n}", session_id=chat.session.session_id, user_id=chat.session.user_id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk)
            tasks.start_soon(run)
        session = await store.load(chat.session.session_id)
    for kind in ("chat", "run"):
        assert [text for text in said(session) if text.startswith(kind)] == [f"{kind} {n}" for n in range(number)]
    assert session is not None and session.state.get("count", 0) == (number + 1 if hooks else 0)


async def test_a_chat_s_bound_on_history_takes_nothing_from_a_run_that_follows(new_store: NewStore) -> None:
    store, chat = new_store(), Chat(max_session_history=4)
    agent = Agent("offline", sessions=store)
    async with serving(agent, chat):
        for n in range(5):
            await chat.say(f"chat {n}")
        assert said(await store.load(chat.session.session_id)) == ["chat 3", "chat 4"]
        for n in range(3):
            await agent.arun(f"run {n}", session_id=chat.session.session_id, user_id=chat.session.user_id)
        assert said(await store.load(chat.session.session_id)) == ["chat 3", "chat 4", "run 0", "run 1", "run 2"]


class CountingStore(SQLiteSessionStore):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.calls: list[str] = []

    async def load(self, session_id: str) -> Session | None:
        self.calls.append("load")
        return await super().load(session_id)

    async def save(self, session: Session) -> None:
        self.calls.append("save")
        await super().save(session)

    async def append(self, session: Session, gone: int, added: int) -> None:
        self.calls.append("append")
        await super().append(session, gone, added)

    async def find(self, key: str) -> str | None:
        self.calls.append("find")
        return await super().find(key)

    async def point(self, key: str, session_id: str) -> None:
        self.calls.append("point")
        await super().point(key, session_id)


@pytest.mark.parametrize("hooks", [(), (CountsMessages(),)], ids=["no hook", "a hook"])
async def test_a_message_is_one_load_and_one_save(tmp_path: Path, hooks: tuple[InterfaceHook, ...]) -> None:
    store, chat = CountingStore(tmp_path / "sessions.db"), Chat(*hooks, max_session_history=4)
    async with serving(Agent("offline", sessions=store), chat):
        for n in range(5):
            await chat.say(f"{n}")
            if n:
                assert store.calls == ["load", "append"]
            store.calls.clear()


async def test_what_hooks_change_is_kept_when_the_run_fails_or_none_follows(new_store: NewStore) -> None:
    class Refuses(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: ChatSession) -> None:
            if message.text == "refused":
                raise LookupError

    def change(context: RunContext) -> None:
        context.session_state["run"] = context.input

    model = OfflineModel(["one", ModelError("down"), "two"])
    store, chat, agent = new_store(), Chat(CountsMessages(), Refuses()), Agent(model, sessions=new_store())
    agent.before_request(change)
    async with serving(agent, chat):
        await chat.say("one")
        for text in ("fails", "refused"):
            await chat.say(text)
        session = await store.load(chat.session.session_id)
        assert session is not None
        assert (said(session), session.state) == (["one"], {"count": 3, "run": "one"})
        await chat.say("two")
        session = await store.load(chat.session.session_id)
        assert session is not None
        assert (said(session), session.state) == (["one", "two"], {"count": 4, "run": "two"})


async def test_a_run_that_comes_while_a_hook_is_called_waits_for_the_message(new_store: NewStore) -> None:
    in_hook, go_on, begun = anyio.Event(), anyio.Event(), anyio.Event()

    class Waits(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: ChatSession) -> None:
            if message.text == "second":
                in_hook.set()
                await go_on.wait()
                session.session_state["hook"] = True

    store, chat = new_store(), Chat(Waits())
    agent = Agent("offline", sessions=store)

    async def run() -> None:
        begun.set()
        await agent.arun("run", session_id=chat.session.session_id, user_id=chat.session.user_id)

    async with serving(agent, chat):
        await chat.say("first")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat.say, "second")
            await in_hook.wait()
            tasks.start_soon(run)
            await begun.wait()
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        session = await store.load(chat.session.session_id)
    assert session is not None
    assert (said(session), session.state) == (["first", "second", "run"], {"hook": True})


async def test_runs_that_have_every_place_and_wait_for_a_session_do_not_block_the_chat_that_has_its_turn() -> None:
    """`max_concurrent_runs=1`: the chat takes its place before its turn, as a run does."""
    in_hook, go_on = anyio.Event(), anyio.Event()

    class Waits(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: ChatSession) -> None:
            if message.text == "second":
                in_hook.set()
                await go_on.wait()

    chat, agent = Chat(Waits()), Agent("offline")

    @agent.on(EventTrigger("runs"))
    async def make_a_run(event: Any) -> dict[str, Any]:
        return {"input": "run", "session_id": chat.session.session_id, "user_id": chat.session.user_id}

    async with serving(agent, chat, max_concurrent_runs=1):
        await chat.say("first")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat.say, "second")
            await in_hook.wait()
            agent.emit("runs", {})
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        await chat.say("third")
    assert chat.sent == ["first", "second", "third"]


async def test_a_hook_that_runs_the_agent_in_its_message_s_session_fails_and_does_not_hang() -> None:
    class AsksTheAgent(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: ChatSession) -> None:
            if message.text == "ask":
                await agent.arun("inner", session_id=session.session_id, user_id=session.user_id)

    chat, agent = Chat(AsksTheAgent()), Agent("offline")
    async with serving(agent, chat):
        for text in ("first", "ask", "last"):
            await chat.say(text)
    assert chat.sent == ["first", chat.config.error_message, "last"]


async def test_a_task_of_a_hook_that_runs_the_agent_in_its_message_s_session_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BeginsARun(InterfaceHook):
        async def on_before_respond(self, message: InterfaceMessage, session: ChatSession) -> None:
            tasks.start_soon(lambda: agent.arun("inner", session_id=session.session_id, user_id=session.user_id))
            await anyio.wait_all_tasks_blocked()

    store = MemorySessionStore()
    chat, agent = Chat(BeginsARun()), Agent("offline", sessions=store)
    async with serving(agent, chat):
        async with anyio.create_task_group() as tasks:
            await chat.say("outer")
        assert said(await store.load(chat.session.session_id)) == ["outer", "inner"]
    assert "began a run in the message's own session" in caplog.text


async def test_a_message_that_waits_for_its_session_longer_than_a_run_may_take_is_answered_with_an_error() -> None:
    chat, agent = Chat(), Agent("offline", run_timeout=0.2)
    async with serving(agent, chat):
        await chat.say("first")
        async with agent.runner.sessions.turn(chat.session.session_id):
            await chat.say("second")
        await chat.say("third")
    assert chat.sent == ["first", chat.config.error_message, "third"]


# --- replicas


async def test_replicas_of_a_chat_that_answer_at_once_lose_nothing(new_store: NewStore) -> None:
    """Two agents: neither waits for the other's turns; what both have added is merged."""
    missing, everybody = 2, anyio.Event()

    async def answer(request: ModelRequest) -> ModelReply | str:
        nonlocal missing
        text = request.messages[-1].content
        if text.startswith("at once"):
            missing -= 1
            if not missing:
                everybody.set()
            await everybody.wait()
        return text

    stores = new_store(), new_store()
    chats = Chat(CountsMessages()), Chat()
    agents = [Agent(OfflineModel(answer), sessions=store) for store in stores]
    async with serving(agents[0], chats[0]), serving(agents[1], chats[1]):
        await chats[0].say("first")
        await chats[1].say("second")
        assert chats[0].session.session_id == chats[1].session.session_id
        async with anyio.create_task_group() as tasks:
            for n, chat in enumerate(chats):
                tasks.start_soon(chat.say, f"at once {n}")
        session = await stores[0].load(chats[0].session.session_id)
        assert said(session)[:2] == ["first", "second"]
        assert sorted(said(session)[2:]) == ["at once 0", "at once 1"]
        assert session is not None and session.state == {"count": 2}


# --- pointers


async def test_what_leads_to_a_conversation_is_no_session(new_store: NewStore) -> None:
    store, chat = new_store(), Chat()
    agent = Agent("offline", sessions=store)
    async with serving(agent, chat):
        await chat.say("one")
        assert await store.load(KEY) is None
        await agent.arun("a run of a session that has the chat's name", session_id=KEY)
        assert await store.delete(KEY)
    again = Chat()
    async with serving(Agent("offline", sessions=new_store()), again):
        await again.say("two")
        assert said(await store.load(again.session.session_id)) == ["one", "two"]


async def test_what_earlier_versions_stored_among_the_sessions_is_moved(new_store: NewStore) -> None:
    store, chat = new_store(), Chat()
    agent = Agent("offline", sessions=store)
    async with serving(agent, chat):
        await chat.say("one")
    session_id = chat.session.session_id
    key = "interface:chat:home:bob"
    await store.save(Session(key, None, (), {"session_id": session_id}, 1.0, 1.0))
    service = agent.runner.sessions
    assert await service.look_up(key) is None
    assert await service.find(key) == session_id
    assert await store.load(key) is None
    assert await service.find(key) == session_id


class BareStore:
    """A store of somebody else's, with what the protocol asks for and no more."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        yield

    async def load(self, session_id: str) -> Session | None:
        return self.sessions.get(session_id)

    async def save(self, session: Session) -> None:
        assert session.session_id != KEY
        self.sessions[session.session_id] = session

    async def delete(self, session_id: str) -> bool:
        return self.sessions.pop(session_id, None) is not None


async def test_a_store_without_versions_and_pointers_serves_chats() -> None:
    store, chat = BareStore(), Chat(CountsMessages())
    agent = Agent("offline", sessions=store)
    async with serving(agent, chat):
        await chat.say("one")
        await chat.say("two")
        assert said(store.sessions[chat.session.session_id]) == ["one", "two"]
        assert store.sessions[chat.session.session_id].state == {"count": 2}
    again = Chat()
    async with serving(agent, again):  # in this process it is remembered
        await again.say("three")
        assert again.session.session_id == chat.session.session_id


async def test_tools_of_a_chat_s_run_see_what_a_hook_has_changed(new_store: NewStore) -> None:
    def count(context: RunContext) -> str:
        return str(context.session_state["count"])

    def answer(request: ModelRequest) -> ModelReply | str:
        last = request.messages[-1]
        return last.content if last.role == "tool" else ModelReply(tool_calls=(ToolCall("count"),))

    chat = Chat(CountsMessages())
    async with serving(Agent(OfflineModel(answer), tools=[count], sessions=new_store()), chat):
        await chat.say("?", 1)
        await chat.say("?", 2)
    assert chat.sent == ["1", "2"]
