"""What is the Redis session store's own: replicas that share sessions, and neither overwrites the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from loopback.redis import RedisServer

from definable.agent import Agent, RunContext
from definable.agent.session import RedisSessionStore, Session
from definable.agent.session.base import merged
from definable.agent.session.redis import _SAVE, _links
from definable.errors import ConfigurationError, MissingExtra, SessionNotFound, StorageError
from definable.model import Message, ModelReply, ModelRequest, OfflineModel, ToolCall
from definable.storage.redis_link import RedisAway, Script

pytestmark = pytest.mark.anyio


class Meeting:
    """Everybody's model answers once all of them are under way."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._all_here = anyio.Event()

    async def __call__(self, request: ModelRequest) -> str:
        self._missing -= 1
        if not self._missing:
            self._all_here.set()
        await self._all_here.wait()
        return f"re: {request.messages[-1].content}"


def pairs(session: Session | None) -> list[tuple[str, str]]:
    assert session is not None
    contents = [message.content for message in session.messages]
    return list(zip(contents[::2], contents[1::2], strict=True))


async def run_at_once(redis: RedisServer, texts: list[str], **options: Any) -> None:
    meeting = Meeting(len(texts))
    agents = [Agent(OfflineModel(meeting), sessions=RedisSessionStore(redis.url), **options) for _ in texts]

    async def run(agent: Agent, text: str) -> None:
        await agent.arun(text, session_id="s")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for agent, text in zip(agents, texts, strict=True):
                tasks.start_soon(run, agent, text)


@pytest.mark.parametrize("begun", [False, True])
async def test_replicas_that_run_a_session_at_once_overwrite_nothing(redis: RedisServer, begun: bool) -> None:
    store = RedisSessionStore(redis.url)
    if begun:
        await Agent("offline", sessions=store).arun("before", session_id="s")
    texts = [f"text {n}" for n in range(5)]
    await run_at_once(redis, texts)
    said = pairs(await store.load("s"))
    if begun:
        assert said.pop(0) == ("before", "before")
    assert sorted(said) == [(text, f"re: {text}") for text in texts]


async def test_nor_does_a_run_whose_tools_look_into_many_other_sessions(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    await Agent("offline", sessions=store).arun("before", session_id="s")

    async def look_around() -> str:
        await Agent("offline", sessions=RedisSessionStore(redis.url)).arun("theirs", session_id="s")
        for n in range(5):
            await store.load(f"other {n}")
        return "seen"

    script = [ModelReply(tool_calls=(ToolCall("look_around"),)), "done"]
    await Agent(OfflineModel(script), tools=[look_around], sessions=store).arun("mine", session_id="s")
    session = await store.load("s")
    assert session is not None
    said = [message.content for message in session.messages if message.role == "user"]
    assert said == ["before", "theirs", "mine"]


async def test_history_stays_bounded_when_runs_meet(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    for n in range(4):
        await Agent("offline", sessions=store, max_history=6).arun(f"{n}", session_id="s")
    await run_at_once(redis, ["x", "y"], max_history=6)
    said = pairs(await store.load("s"))
    assert len(said) == 3
    assert sorted(said[1:]) == [("x", "re: x"), ("y", "re: y")]


async def test_of_the_state_each_replica_keeps_what_it_has_changed(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    await store.save(Session("s", state={"kept": 1, "gone": 2, "shared": 0}))
    meeting = Meeting(2)

    def replica(name: str) -> Agent:
        async def change(context: RunContext) -> str:
            await meeting(ModelRequest((Message("user", "?"),)))
            context.session_state[name] = True
            context.session_state.pop("gone", None)
            return "done"

        script = [ModelReply(tool_calls=(ToolCall("change"),)), "ok"]
        return Agent(OfflineModel(script), tools=[change], sessions=RedisSessionStore(redis.url))

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b"):
            tasks.start_soon(lambda name=name: replica(name).arun("?", session_id="s"))
    session = await store.load("s")
    assert session is not None
    assert session.state == {"kept": 1, "shared": 0, "a": True, "b": True}


async def test_a_session_that_was_forgotten_during_a_run_comes_back_with_that_run_alone(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    await Agent("offline", sessions=store).arun("secret", session_id="s")

    async def forget(request: ModelRequest) -> str:
        assert await RedisSessionStore(redis.url).delete("s")
        return "forgotten"

    await Agent(OfflineModel(forget), sessions=store).arun("forget it", session_id="s")
    assert pairs(await store.load("s")) == [("forget it", "forgotten")]


async def test_a_session_that_another_user_began_meanwhile_is_not_touched(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)

    async def begin(request: ModelRequest) -> str:
        await Agent("offline", sessions=RedisSessionStore(redis.url)).arun("ann's", session_id="s", user_id="ann")
        return "ok"

    with pytest.raises(SessionNotFound):
        await Agent(OfflineModel(begin), sessions=store).arun("bob's", session_id="s", user_id="bob")
    assert pairs(await store.load("s")) == [("ann's", "ann's")]


async def test_a_save_whose_answer_got_lost_is_done_once_also_when_another_follows(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    async with store.open():
        [link] = _links(store)
        script, lost = link.script, [True]

        async def script_that_is_not_answered(told: Script, *args: Any) -> Any:
            answer = await script(told, *args)
            if told is _SAVE and lost:
                lost.clear()
                await Agent("offline", sessions=RedisSessionStore(redis.url)).arun("theirs", session_id="s")
                raise RedisAway("the answer got lost")
            return answer

        link.script = script_that_is_not_answered  # type: ignore[method-assign]
        agent = Agent("offline", sessions=store)
        for text in ("mine", "mine too"):
            await agent.arun(text, session_id="s")
        assert pairs(await store.load("s")) == [(text, text) for text in ("mine", "theirs", "mine too")]


async def test_a_save_without_a_load_replaces(redis: RedisServer) -> None:
    first, second = RedisSessionStore(redis.url), RedisSessionStore(redis.url)
    async with first.open(), second.open():
        await first.save(Session("s", "ann", (Message("user", "a"),)))
        await second.save(Session("s", "bob", (Message("user", "b"),)))
        assert await first.load("s") == Session("s", "bob", (Message("user", "b"),))


async def test_redis_forgets_what_was_not_used(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url, ttl=3600, prefix="mine")
    await store.save(Session("s"))
    assert 3_590_000 < redis.number("PTTL", "{mine}:session:s") <= 3_600_000
    redis.ask("PEXPIRE", "{mine}:session:s", "1000")
    assert await store.load("s") is not None
    assert 3_590_000 < redis.number("PTTL", "{mine}:session:s") <= 3_600_000
    assert await RedisSessionStore(redis.url, prefix="yours").load("s") is None


async def test_a_cancelled_load_leaves_the_connection_in_order(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    async with store.open():
        await store.save(Session("s", "ann"))
        for steps in range(50):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.load, "nobody")
                for _ in range(steps % 5):
                    await checkpoint()
                tasks.cancel_scope.cancel()
            assert await store.load("s") == Session("s", "ann")
        assert redis.ask("CLIENT", "LIST").count(b"cmd=") == 2


async def test_a_stored_session_that_cannot_be_read_is_a_clear_error(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    for damage in (("messages", "{"), ("messages", '[{"role": 1}, 2]'), ("state", "[]")):
        await store.save(Session("s"))
        redis.ask("HSET", "{definable}:session:s", *damage)
        with pytest.raises(StorageError, match="cannot be read"):
            await RedisSessionStore(redis.url).load("s")
    await store.save(Session("s", messages=(Message("user", "a"),)))
    redis.ask("LSET", "{definable}:messages:s", "0", "{")
    with pytest.raises(StorageError, match="cannot be read"):
        await RedisSessionStore(redis.url).load("s")


async def test_a_stored_session_that_lacks_a_part_is_a_clear_error(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    for part in ("state", "created", "updated"):
        await store.save(Session("s"))
        redis.ask("HDEL", "{definable}:session:s", part)
        with pytest.raises(StorageError, match="the stored session 's' cannot be read"):
            await store.load("s")


async def test_a_session_whose_messages_redis_has_evicted_is_none(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    await store.save(Session("s", "ann", (Message("user", "a"),)))
    loaded = await store.load("s")
    assert loaded is not None
    redis.ask("DEL", "{definable}:messages:s")
    assert await RedisSessionStore(redis.url).load("s") is None
    said = (*loaded.messages, Message("user", "b"))
    await store.append(replace(loaded, messages=said), gone=0, added=1)
    assert await RedisSessionStore(redis.url).load("s") == replace(loaded, messages=said)


async def test_a_session_that_an_earlier_version_saved_is_read_and_gone_on_with(redis: RedisServer) -> None:
    fields = ("version", "12345678", "state", "{}", "created", "1.0", "updated", "2.0")
    said = '[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]'
    redis.ask("HSET", "{definable}:session:s", *fields, "messages", said)
    for store in (RedisSessionStore(redis.url), RedisSessionStore(redis.url)):
        await Agent("offline", sessions=store).arun("c", session_id="s")
    session = await RedisSessionStore(redis.url).load("s")
    assert session is not None and session.created_at == 1.0
    assert [message.content for message in session.messages] == ["a", "b", "c", "c", "c", "c"]
    assert redis.number("HEXISTS", "{definable}:session:s", "messages") == 0
    assert redis.number("LLEN", "{definable}:messages:s") == 6


async def test_what_a_run_adds_is_sent_alone(redis: RedisServer) -> None:
    store = RedisSessionStore(redis.url)
    await store.save(Session("s", messages=tuple(Message("user", str(number)) for number in range(2500))))
    assert redis.number("LLEN", "{definable}:messages:s") == 2500
    loaded = await store.load("s")
    assert loaded is not None and len(loaded.messages) == 2500
    redis.ask("LSET", "{definable}:messages:s", "1", '{"role":"user","content":"kept"}')
    await store.append(replace(loaded, messages=(*loaded.messages[1:], Message("user", "new"))), gone=1, added=1)
    stored = await RedisSessionStore(redis.url).load("s")
    assert stored is not None and len(stored.messages) == 2500
    assert [stored.messages[at].content for at in (0, 1, -1)] == ["kept", "2", "new"]


async def test_an_unreachable_redis_is_a_clear_error_without_the_password() -> None:
    store = RedisSessionStore("redis://:s3cret@127.0.0.1:1", timeout=0.2)
    for call in (lambda: store.load("s"), lambda: store.save(Session("s")), lambda: store.delete("s")):
        with pytest.raises(StorageError, match=r"Redis at redis://127\.0\.0\.1:1/0: ") as caught:
            await call()
        assert "s3cret" not in str(caught.value)
    with pytest.raises(StorageError):
        async with store.open():
            pass
    assert repr(store) == "RedisSessionStore('redis://127.0.0.1:1/0')"


def test_wrong_arguments_are_errors_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, words in (
        ({"ttl": 0}, "ttl=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"prefix": "{"}, "without braces"),
        ({"url": "localhost"}, "a Redis URL"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            RedisSessionStore(**options)  # type: ignore[arg-type]
    monkeypatch.setattr("definable.storage.redis_address.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install definable\[redis\]"):
        RedisSessionStore()


def test_merging() -> None:
    def said(*texts: str, **state: Any) -> Session:
        return Session("s", "ann", tuple([Message("user", text) for text in texts]), state)

    base = said("a", "b", x=1, y=2)
    assert merged(base, said("a", "b", "mine", x=1, y=3), said("a", "b", "theirs", x=2, y=2)) == said(
        "a", "b", "theirs", "mine", x=2, y=3
    )
    assert merged(base, said("b", "mine", x=1, y=2), said("b", "theirs")) == said("theirs", "mine")
    assert merged(said(), said("mine", z=1), said("theirs", w=1)) == said("theirs", "mine", w=1, z=1)
