"""What every session store promises: one suite, run over all of them on both backends."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import psycopg
import pytest
from loopback.redis import RedisServer

from definable.agent.session import (
    MemorySessionStore,
    PostgresSessionStore,
    RedisSessionStore,
    Session,
    SessionStore,
    SQLiteSessionStore,
)
from definable.agent.session.base import NOT_STORED, AppendingStore, ConversationStore
from definable.errors import ConfigurationError, SessionConflict
from definable.model import Image, Message, ToolCall

pytestmark = pytest.mark.anyio

HISTORY = (
    Message("user", "What is in this picture?", images=(Image(data=b"\x00\xff"), Image(url="https://x.test/a.png"))),
    Message("assistant", "", (ToolCall("look", {"at": 1}, id="call_1"), ToolCall("look", "{not json", id="call_2"))),
    Message("tool", "A cat. \ud83d", tool_call_id="call_1"),
    Message("tool", "", tool_call_id="call_2"),
    Message("assistant", "Кошка 🐈"),
)


class StoreHome(Protocol):
    """Makes one kind of store for a test, and tells it the time."""

    def store(self, ttl: float | None = None) -> SessionStore: ...

    def pass_time(self, seconds: float) -> None: ...


class MemoryHome:
    def __init__(self) -> None:
        self.now = 1000.0

    def store(self, ttl: float | None = None) -> SessionStore:
        return MemorySessionStore(ttl=ttl, clock=lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


class SQLiteHome(MemoryHome):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = directory / "sessions.db"

    def store(self, ttl: float | None = None) -> SessionStore:
        return SQLiteSessionStore(self.path, ttl=ttl, clock=lambda: self.now)


class RedisHome:
    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def store(self, ttl: float | None = None) -> SessionStore:
        return RedisSessionStore(self.server.url, ttl=ttl)

    def pass_time(self, seconds: float) -> None:
        """Redis keeps its own time: what is left of every key's is cut."""
        script = """for _, key in ipairs(redis.call('KEYS', '*')) do
            local left = redis.call('PTTL', key)
            if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
        end return 1"""
        assert self.server.number("EVAL", script, "0", f"{seconds * 1000:.0f}") == 1


class PostgresHome:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def store(self, ttl: float | None = None) -> SessionStore:
        return PostgresSessionStore(self.dsn, ttl=ttl)

    def pass_time(self, seconds: float) -> None:
        """PostgreSQL keeps its own time: every use was longer ago."""
        with psycopg.connect(self.dsn) as connection:
            for table in ("definable_session", "definable_conversation"):
                connection.execute(
                    f"UPDATE {table} SET used_at = used_at - make_interval(secs => %s)",  # type: ignore[arg-type]
                    (seconds,),
                )


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> StoreHome:
    if request.param == "postgres":
        return PostgresHome(request.getfixturevalue("postgres"))
    if request.param == "redis":
        return RedisHome(request.getfixturevalue("redis"))
    return MemoryHome() if request.param == "memory" else SQLiteHome(tmp_path)


@asynccontextmanager
async def held(store: SessionStore, is_open: bool) -> AsyncGenerator[SessionStore]:
    if not is_open:
        yield store
        return
    async with store.open():
        yield store


@pytest.fixture(params=["open", "not open"])
async def store(request: pytest.FixtureRequest, home: StoreHome) -> Any:
    with anyio.fail_after(30):
        async with held(home.store(), request.param == "open") as store:
            yield store


@pytest.fixture
def threads() -> Iterator[list[threading.Thread]]:
    started: list[threading.Thread] = []
    yield started
    for thread in started:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_each_is_a_session_store(home: StoreHome) -> None:
    assert isinstance(home.store(), SessionStore)


async def test_an_unknown_session_is_none(store: SessionStore) -> None:
    assert await store.load("nobody") is None
    assert await store.delete("nobody") is False


async def test_a_saved_session_comes_back_whole(store: SessionStore) -> None:
    session = Session("s", "ann", HISTORY, {"n": 1, "nested": {"list": [1, None, 2.5, "ß"]}}, 12.25, 1e9 + 1 / 3)
    await store.save(session)
    assert await store.load("s") == session


async def test_an_empty_session_comes_back(store: SessionStore) -> None:
    await store.save(Session("s"))
    assert await store.load("s") == Session("s")


@pytest.mark.parametrize(
    "session_id", ["", " ", "../../etc/passwd", "a\x00b", "'; DROP TABLE x; --", "é🐈", "x" * 10_000]
)
async def test_any_text_is_a_session_id(store: SessionStore, session_id: str) -> None:
    await store.save(Session("other", messages=HISTORY[:1]))
    await store.save(Session(session_id, session_id, HISTORY))
    assert await store.load(session_id) == Session(session_id, session_id, HISTORY)
    assert await store.delete(session_id)
    assert await store.load("other") == Session("other", messages=HISTORY[:1])


@pytest.mark.parametrize(
    "after",
    [
        (*HISTORY, Message("user", "next"), Message("assistant", "answer")),
        (*HISTORY[2:], Message("user", "next")),
        HISTORY[1:],
        HISTORY[:2],
        HISTORY[1:3],
        (),
        tuple(reversed(HISTORY)),
        (Message("user", "all new"),),
        HISTORY * 3,
    ],
)
async def test_a_save_replaces_what_was_there(store: SessionStore, after: tuple[Message, ...]) -> None:
    for session in (
        Session("s", "ann", HISTORY, {"a": 1}, 1.0, 2.0),
        Session("s", None, after, {"b": 2}, 3.0, 4.0),
        Session("s", "bob", HISTORY, {}, 5.0, 6.0),
    ):
        await store.save(session)
        assert await store.load("s") == session


async def test_equal_messages_are_kept_apart(store: SessionStore) -> None:
    hi = Message("user", "hi")
    for count in (3, 5, 2, 1, 4):
        await store.save(Session("s", messages=(hi,) * count))
        loaded = await store.load("s")
        assert loaded is not None
        assert loaded.messages == (hi,) * count


@pytest.mark.parametrize("text", ["{}", '{"kept": {"list": [1]}}'])
async def test_a_loaded_state_is_the_callers_own(store: SessionStore, text: str) -> None:
    await store.save(Session("s", state=json.loads(text)))
    for _ in range(2):
        loaded = await store.load("s")
        assert loaded is not None
        assert loaded.state == json.loads(text)
        loaded.state["new"] = 1
        loaded.state.get("kept", {}).clear()


@pytest.mark.parametrize("text", ["{}", '{"kept": {"list": [1]}}'])
async def test_a_saved_state_is_no_longer_the_callers(store: SessionStore, text: str) -> None:
    state = json.loads(text)
    await store.save(Session("s", state=state))
    state["new"] = 1
    state.get("kept", {}).clear()
    loaded = await store.load("s")
    assert loaded is not None
    assert loaded.state == json.loads(text)


async def test_a_state_that_cannot_be_kept_is_a_clear_error_and_changes_nothing(store: SessionStore) -> None:
    await store.save(Session("s", state={"n": 1}))
    with pytest.raises(ConfigurationError, match="session_state of 's'"):
        await store.save(Session("s", messages=HISTORY, state={"lock": threading.Lock()}))
    assert await store.load("s") == Session("s", state={"n": 1})


async def test_a_deleted_session_is_gone(store: SessionStore) -> None:
    await store.save(Session("s", messages=HISTORY))
    assert await store.delete("s") is True
    assert await store.load("s") is None
    assert await store.delete("s") is False
    await store.save(Session("s"))
    assert await store.load("s") == Session("s")


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_session_is_forgotten_when_it_was_not_used_for_its_ttl(home: StoreHome, is_open: bool) -> None:
    async with held(home.store(ttl=60.0), is_open) as store:
        await store.save(Session("s", messages=HISTORY))
        for _ in range(3):
            home.pass_time(59.0)
            assert await store.load("s") is not None
        home.pass_time(60.0)
        assert await store.load("s") is None
        assert await store.delete("s") is False
        await store.save(Session("s"))
        assert await store.load("s") == Session("s")


async def test_without_a_ttl_nothing_is_forgotten(home: StoreHome) -> None:
    async with home.store(ttl=None).open(), held(home.store(), True) as store:
        await store.save(Session("s"))
        home.pass_time(1e9)
        assert await store.load("s") is not None


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_ttl_is_positive(home: StoreHome, ttl: float) -> None:
    with pytest.raises(ConfigurationError, match="ttl"):
        home.store(ttl=ttl)


async def test_many_tasks_use_the_store_at_once(store: SessionStore) -> None:
    async def converse(session_id: str) -> None:
        for turn in range(5):
            session = await store.load(session_id) or Session(session_id)
            said = (*session.messages, Message("user", f"{session_id} {turn}"))
            await store.save(Session(session_id, None, said, {"turn": turn}))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(converse, f"s{number}")
    for number in range(20):
        said = tuple([Message("user", f"s{number} {turn}") for turn in range(5)])
        assert await store.load(f"s{number}") == Session(f"s{number}", None, said, {"turn": 4})


async def test_event_loops_in_threads_use_the_store_at_once(
    store: SessionStore, anyio_backend_name: str, threads: list[threading.Thread]
) -> None:
    async def use(number: int) -> None:
        for turn in range(5):
            await store.save(Session(f"s{number}", messages=HISTORY[:turn], state={"turn": turn}))
            await store.save(Session("shared", messages=HISTORY))
            assert await store.load("shared") == Session("shared", messages=HISTORY)

    for number in range(6):
        threads.append(threading.Thread(target=anyio.run, args=(use, number), kwargs={"backend": anyio_backend_name}))
        threads[-1].start()
    await use(6)
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, 30)
    for number in range(7):
        assert await store.load(f"s{number}") == Session(f"s{number}", messages=HISTORY[:4], state={"turn": 4})


@pytest.mark.parametrize("odd", ["half \ud83d", "nul \x00", "\udc80"])
async def test_ids_of_any_text_are_kept_apart_and_come_back(store: SessionStore, odd: str) -> None:
    session = Session(odd, f"user {odd}", HISTORY[:1], {"of": odd})
    await store.save(session)
    await store.save(Session(ascii(odd), "another"))
    assert await store.load(odd) == session
    assert await store.delete(odd)
    assert await store.load(odd) is None


async def test_a_cancelled_save_is_whole_or_did_not_happen(store: SessionStore) -> None:
    """Cancelled at every moment that the event loop offers, and late enough for a store beyond a network."""
    old, new = Session("s", "ann", HISTORY[:1], {"v": 1}), Session("s", "ann", HISTORY * 4, {"v": 2})
    outcomes: set[bool] = set()
    for steps in (*range(12), 100, 5_000):
        await store.save(old)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.save, new)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        loaded = await store.load("s")
        assert loaded in (old, new)
        outcomes.add(loaded == new)
    assert True in outcomes


# --- versions


async def test_a_save_of_a_version_that_is_no_longer_stored_is_refused_and_changes_nothing(store: SessionStore) -> None:
    await store.save(Session("s", "ann", HISTORY[:1]))
    first = await store.load("s")
    assert first is not None and first.version
    second = replace(first, messages=HISTORY[:2])
    await store.save(second)
    with pytest.raises(SessionConflict, match="'s'"):
        await store.save(replace(first, messages=()))
    loaded = await store.load("s")
    assert loaded == second and loaded is not None and loaded.version != first.version


async def test_a_session_that_nobody_had_is_saved_once(store: SessionStore) -> None:
    new = Session("s", messages=HISTORY, version=NOT_STORED)
    await store.save(new)
    with pytest.raises(SessionConflict):
        await store.save(replace(new, messages=()))
    assert await store.delete("s")
    await store.save(new)
    assert await store.load("s") == new


async def test_of_saves_of_one_version_at_once_one_is_done(home: StoreHome) -> None:
    store = home.store()
    others = [store if isinstance(store, MemorySessionStore) else home.store() for _ in range(5)]
    refused: list[int] = []
    await store.save(Session("s"))
    loaded = await store.load("s")
    assert loaded is not None

    async def save(number: int) -> None:
        try:
            await others[number].save(replace(loaded, state={"by": number}))
        except SessionConflict:
            refused.append(number)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(save, number)
    assert len(refused) == 4
    last = await store.load("s")
    assert last is not None and last.state["by"] not in refused


# --- what a run adds


APPENDING = pytest.mark.parametrize("home", ["sqlite", "redis", "postgres"], indirect=True)
"""Memory keeps the messages as they are given."""


@APPENDING
@pytest.mark.parametrize(("gone", "added"), [(0, 0), (0, 2), (2, 0), (2, 2), (5, 0), (5, 3)])
async def test_a_run_s_messages_are_added_to_those_that_are_stored(home: StoreHome, gone: int, added: int) -> None:
    """By one that has loaded the session before and by one that has not; of two at once the second is refused."""
    store = home.store()
    await store.save(Session("s", "ann", HISTORY, {"n": 1}, 1.0, 2.0))
    for other in (store, home.store(), store):
        assert isinstance(other, AppendingStore)
        loaded = await other.load("s")
        assert loaded is not None
        new = tuple(Message("user", f"new {number}") for number in range(added))
        after = replace(loaded, messages=loaded.messages[gone:] + new, state={"n": 2}, updated_at=3.0)
        await other.append(after, min(gone, len(loaded.messages)), added)
        for reader in (other, store, home.store()):
            assert await reader.load("s") == after
        with pytest.raises(SessionConflict):
            await other.append(after, 0, 0)
        assert await home.store().load("s") == after


@APPENDING
async def test_a_run_in_a_new_session_adds_all_of_it(home: StoreHome) -> None:
    store = home.store(ttl=10.0)
    assert isinstance(store, AppendingStore)
    await store.save(Session("s", messages=HISTORY))
    home.pass_time(11.0)
    await store.append(Session("s", messages=HISTORY[:2], version=NOT_STORED), 0, 2)
    assert await home.store(ttl=10.0).load("s") == Session("s", messages=HISTORY[:2])


# --- conversations of chats


async def test_a_chat_s_conversation_is_found_and_is_no_session(store: SessionStore) -> None:
    assert isinstance(store, ConversationStore)
    assert await store.find("chat") is None
    for odd in ("session_1", "session_2", "half \ud83d", ""):
        await store.point("chat", odd)
        await store.point(f"{odd}\udc80", "another")
        assert await store.find("chat") == odd
    assert await store.load("chat") is None
    assert await store.delete("chat") is False
    await store.save(Session("chat"))
    assert await store.find("chat") == ""


async def test_a_chat_s_conversation_is_forgotten_when_it_was_not_used_for_the_ttl(home: StoreHome) -> None:
    for ttl, kept in ((60.0, None), (None, "session_1")):
        store = home.store(ttl=ttl)
        assert isinstance(store, ConversationStore) and store.ttl == ttl
        await store.point("chat", "session_1")
        for _ in range(3):
            home.pass_time(59.0)
            assert await store.find("chat") == "session_1"
        home.pass_time(60.0)
        assert await store.find("chat") == kept
