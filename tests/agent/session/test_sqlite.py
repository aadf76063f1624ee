"""The store in a file: what survives, who may share it, and how little a save writes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from definable.agent import Agent
from definable.agent.session import Session, SQLiteSessionStore
from definable.agent.session.base import NOT_STORED
from definable.agent.session.sqlite import FORGOTTEN_AT_ONCE
from definable.errors import ConfigurationError, SessionConflict, StorageError
from definable.model import Message, ModelRequest, OfflineModel

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


def query(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def said(*texts: str) -> tuple[Message, ...]:
    return tuple([Message("user", text) for text in texts])


async def test_what_a_run_adds_is_written_and_what_is_gone_deleted(path: Path) -> None:
    store = SQLiteSessionStore(path)
    await store.save(Session("s", messages=said("a", "b", "c")))
    before = dict(query(path, "SELECT body, position FROM definable_session_message"))
    loaded = await store.load("s")
    assert loaded is not None
    await store.append(replace(loaded, messages=said("b", "c", "d")), gone=1, added=1)
    after = dict(query(path, "SELECT body, position FROM definable_session_message"))
    assert list(before.items())[1:] == list(after.items())[:2]
    assert len(after) == 3


TEXTS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8)


@settings(max_examples=40, deadline=None)
@given(histories=st.lists(TEXTS, min_size=1, max_size=6))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_any_history_may_follow_any_other(
    tmp_path_factory: pytest.TempPathFactory, backend: str, histories: list[list[str]]
) -> None:
    async def scenario() -> None:
        store = SQLiteSessionStore(tmp_path_factory.mktemp("any") / "sessions.db")
        async with store.open():
            await store.save(Session("other", messages=said("x")))
            for texts in histories:
                await store.save(Session("s", messages=said(*texts)))
                assert await store.load("s") == Session("s", messages=said(*texts))
            assert await store.load("other") == Session("other", messages=said("x"))

    anyio.run(scenario, backend=backend)


async def test_a_deleted_session_leaves_no_messages(path: Path) -> None:
    store = SQLiteSessionStore(path)
    await store.save(Session("s", messages=said("a", "b")))
    await store.delete("s")
    assert query(path, "SELECT * FROM definable_session_message") == []


async def test_expired_sessions_are_deleted_by_later_saves_some_at_a_time(path: Path) -> None:
    now = 0.0
    store = SQLiteSessionStore(path, ttl=10, clock=lambda: now)
    async with store.open():
        for number in range(FORGOTTEN_AT_ONCE + 5):
            await store.save(Session(f"s{number}", messages=said("x")))
        now = 11.0
        await store.save(Session("new", messages=said("y")))
        assert query(path, "SELECT count(*) FROM definable_session") == [(6,)]
        await store.save(Session("new", messages=said("y")))
    assert query(path, "SELECT session_id FROM definable_session") == [("new",)]
    assert query(path, "SELECT count(*) FROM definable_session_message") == [(1,)]


async def test_a_session_that_expires_while_it_is_used_is_saved_whole(path: Path) -> None:
    now = 0.0
    store = SQLiteSessionStore(path, ttl=10, clock=lambda: now)
    await store.save(Session("s", messages=said("a")))
    now = 11.0
    await store.save(Session("s", messages=said("a", "b")))
    assert await store.load("s") == Session("s", messages=said("a", "b"))


async def test_it_outlives_the_store(path: Path) -> None:
    session = Session("s", "ann", said("a"), {"n": 1}, 1.0, 2.0)
    async with (store := SQLiteSessionStore(path)).open():
        await store.save(session)
    assert await SQLiteSessionStore(path).load("s") == session


def test_sqlites_own_memory_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="path of a file on disk"):
        SQLiteSessionStore(":memory:")


async def test_a_row_that_cannot_be_read_is_a_clear_error(path: Path) -> None:
    store = SQLiteSessionStore(path)
    await store.save(Session("s", messages=said("a")))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE definable_session_message SET body = 'garbage'")
    with pytest.raises(StorageError, match="a stored message cannot be read"):
        await SQLiteSessionStore(path).load("s")
    await store.save(Session("s", messages=said("b")))
    assert await store.load("s") == Session("s", messages=said("b"))


async def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    await anyio.Path(path).write_text("x" * 5000)
    store = SQLiteSessionStore(path)
    with pytest.raises(StorageError, match=r"sessions\.db: it is not an SQLite database"):
        await store.load("s")
    with pytest.raises(StorageError, match="not an SQLite database"):
        async with store.open():
            pass


KILLED = """
import sys
from definable.agent import Agent
from definable.agent.session import SQLiteSessionStore
agent = Agent("offline", sessions=SQLiteSessionStore(sys.argv[1]))
async def main():
    opened = agent.sessions.open() if sys.argv[2] == "open" else None
    if opened is not None:
        await opened.__aenter__()
    number = 0
    while True:
        await agent.arun(f"message {number}", session_id="s")
        print(number, flush=True)
        number += 1
import anyio
anyio.run(main, backend=sys.argv[3])
"""


@pytest.mark.parametrize("how", ["open", "not open"])
async def test_what_was_saved_survives_kill_9(path: Path, how: str, anyio_backend_name: str) -> None:
    command = [sys.executable, "-c", KILLED, str(path), how, anyio_backend_name]
    with anyio.fail_after(40):
        saved = await anyio.to_thread.run_sync(killed_after_some_saves, command)
    session = await SQLiteSessionStore(path).load("s")
    assert session is not None
    inputs = [message.content for message in session.messages if message.role == "user"]
    assert f"message {saved}" in inputs[-2:]
    assert inputs == [f"message {number}" for number in range(len(inputs))]
    assert len(session.messages) == 2 * len(inputs)


def killed_after_some_saves(command: list[str]) -> int:
    """The last number that the child said it had saved."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "20":
                break
        os.kill(child.pid, signal.SIGKILL)
        return int([line, *child.stdout.read().splitlines()][-1])


async def test_sessions_of_a_file_from_before_there_were_versions_have_one(tmp_path: Path) -> None:
    store = SQLiteSessionStore(tmp_path / "sessions.db")
    await store.save(Session("s", "ann"))
    connection = sqlite3.connect(tmp_path / "sessions.db")
    with connection:
        connection.execute("DROP TABLE definable_session_version")
    connection.close()
    first = await store.load("s")
    assert first is not None and first.version
    with pytest.raises(SessionConflict):
        await store.save(Session("s", "bob", version=NOT_STORED))
    await store.save(replace(first, state={"n": 1}))
    with pytest.raises(SessionConflict):
        await store.save(first)


async def test_a_session_that_another_process_deletes_during_a_run_comes_back_with_that_run_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sessions.db"

    async def forget(request: ModelRequest) -> str:
        if request.messages[-1].content == "forget it":
            assert await SQLiteSessionStore(path).delete("s")
        return "ok"

    agent = Agent(OfflineModel(forget), sessions=SQLiteSessionStore(path))
    for text in ("secret", "forget it"):
        await agent.arun(text, session_id="s")
    session = await SQLiteSessionStore(path).load("s")
    assert session is not None
    assert [message.content for message in session.messages] == ["forget it", "ok"]
