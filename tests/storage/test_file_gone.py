"""SQLite files that are deleted, moved, replaced or emptied while they are in use, and who may use them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.interface import SQLiteIdentityResolver
from definable.agent.session import Session, SQLiteSessionStore
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.errors import StorageError
from definable.storage import SQLiteFile
from definable.testing import served

pytestmark = pytest.mark.anyio

LIMIT = 15.0
"""Seconds that a test may hang."""

SCHEMA = ["CREATE TABLE IF NOT EXISTS note (text TEXT)"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.db"


def files(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("", "-wal", "-shm")]


def delete(path: Path) -> None:
    for each in files(path):
        each.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    other.replace(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete_log(path: Path) -> None:
    for each in files(path)[1:]:
        each.unlink()


DAMAGES = pytest.mark.parametrize(
    ("damage", "says"),
    [(delete, "deleted or moved"), (replace, "replaced"), (empty, "emptied"), (delete_log, "kept.db-wal was deleted")],
)


def add(text: str) -> Callable[[sqlite3.Connection], None]:
    return lambda connection: connection.execute("INSERT INTO note VALUES (?)", (text,)) and None


def count(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT count(*) FROM note").fetchone()[0]


@DAMAGES
async def test_nothing_is_written_to_or_read_from_a_file_that_is_gone(
    path: Path, damage: Callable[[Path], None], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = SQLiteFile(path, SCHEMA, pinned=True)
    async with file.open():
        await file.write(add("kept"))
        assert file.failure is None
        damage(path)
        assert says in str(file.failure)
        for _ in range(3):
            with pytest.raises(StorageError, match=says):
                await file.write(add("lost"))
            with pytest.raises(StorageError, match=says):
                await file.read(count)
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # once
    assert file.failure is None  # it is not open


async def test_a_file_that_is_brought_back_is_used_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, away = SQLiteFile(path, SCHEMA, pinned=True), path.with_name("away.db")
    async with file.open():
        await file.write(add("one"))
        os.rename(path, away)
        with pytest.raises(StorageError, match="deleted or moved"):
            await file.write(add("lost"))
        os.rename(away, path)
        await file.write(add("two"))
        assert await file.read(count) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_what_a_transaction_wrote_while_the_file_went_is_not_kept(path: Path) -> None:
    file, away = SQLiteFile(path, SCHEMA, pinned=True), path.with_name("away.db")

    def write(connection: sqlite3.Connection) -> None:
        add("lost")(connection)
        path.rename(away)

    async with file.open():
        with pytest.raises(StorageError, match="deleted or moved"):
            await file.write(write)
        os.rename(away, path)
        assert await file.read(count) == 0


async def test_an_error_of_sqlite_does_not_have_a_file_made_in_the_place_of_one_that_is_gone(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA, pinned=True)
    async with file.open():
        await file.write(add("kept"))
        with pytest.raises(StorageError, match="syntax error"):
            await file.write(lambda connection: connection.execute("NO SQL"))  # the connection is made anew after it
        os.rename(path, path.with_name("away.db"))
        for _ in range(2):
            with pytest.raises(StorageError, match="deleted or moved"):
                await file.read(count)
        assert path.name not in os.listdir(path.parent)
        os.rename(path.with_name("away.db"), path)
        assert await file.read(count) == 1


async def test_a_log_that_is_started_anew_is_no_damage(path: Path) -> None:
    """SQLite writes its log from the beginning again after a checkpoint, also one that another process makes."""
    file = SQLiteFile(path, SCHEMA, pinned=True)
    async with file.open():
        for _ in range(3):
            await file.write(add("x" * 10_000))
            with sqlite3.connect(path) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                other.execute("VACUUM")
            other.close()
        assert await file.read(count) == 3


@DAMAGES
async def test_a_service_says_that_its_file_is_gone_and_accepts_nothing(
    path: Path, damage: Callable[[Path], None], says: str
) -> None:
    handled: list[Any] = []
    hold = anyio.Event()
    agent = Agent("offline", bus=SQLiteBus(path), sessions=SQLiteSessionStore(path))

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        handled.append(event.body["n"])
        await hold.wait()

    agent.on(Webhook("/later", respond="accept"))(lambda event: None)
    with anyio.fail_after(LIMIT):
        async with served(agent, event_workers=1, shutdown_timeout=60) as service:  # the stop does not take that long
            client = service.client
            for n in range(3):
                await agent.aemit("job", {"n": n})
            while handled != [0]:
                await anyio.sleep(0.005)
            damage(path)
            response = await client.get("/health")
            assert (response.status_code, response.json()["status"]) == (503, "degraded")
            assert response.json()["children"]["events"] == {"state": "failing"}
            assert response.json()["children"]["sessions"] == {"state": "failing"}
            for url, body, headers in (
                ("/later", {}, {}),
                ("/run", {"input": "hi"}, {"prefer": "respond-async"}),
                ("/run", {"input": "hi", "session_id": "s"}, {}),
            ):
                response = await client.post(url, json=body, headers=headers)
                assert (response.status_code, "retry-after" in response.headers) == (503, True)
            with pytest.raises(StorageError, match=says):
                await agent.aemit("job", {"n": 4})
            hold.set()
    report = service.runtime.report
    assert report is not None
    assert handled == [0]
    assert report.sources["event"].completed == 1
    assert report.sources["event"].never_started == 2  # what waited in the file
    assert not report.clean


async def test_an_identity_resolver_says_that_its_file_is_gone(path: Path) -> None:
    resolver = SQLiteIdentityResolver(path)
    await resolver.initialize()
    await resolver.link("telegram", "1", "ann")
    assert resolver.failure is None
    delete(path)
    assert "deleted" in str(resolver.failure)
    with pytest.raises(StorageError):
        await resolver.resolve("telegram", "1")
    await resolver.close()


# --- one owner


PROGRAM = """
import sys, anyio
from definable.agent.bus import SQLiteBus

async def main():
    async with SQLiteBus(sys.argv[1]).open():
        print("opened")

anyio.run(main)
"""


def open_elsewhere(path: Path) -> str:
    """What comes of opening the bus in another process."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete a file that is in use")
async def test_a_second_process_is_refused_though_the_lock_beside_was_removed(path: Path) -> None:
    async with SQLiteBus(path).open():
        path.with_name("kept.db-owner").unlink()
        with pytest.raises(StorageError, match="another SQLiteBus has it open"):
            async with SQLiteBus(path).open():
                pass
        assert "another SQLiteBus has it open" in await anyio.to_thread.run_sync(open_elsewhere, path)
    assert "opened" in await anyio.to_thread.run_sync(open_elsewhere, path)


async def test_who_has_the_file_open_for_sessions_is_not_disturbed_by_the_lock(path: Path) -> None:
    """The lock's descriptor stays open as long as SQLite has the file open in this process, and no longer."""
    store = SQLiteSessionStore(path)
    before = descriptors(path)
    async with store.open():
        for _ in range(3):
            async with SQLiteBus(path).open():
                await store.save(Session("s"))
        with sqlite3.connect(path) as other:  # SQLite's own locks are there still: the log has a user
            other.execute("PRAGMA busy_timeout = 0")
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.close()
        assert path.with_name("kept.db-wal").exists()
        assert await store.load("s") is not None
    assert descriptors(path) == before == 0


def descriptors(path: Path) -> int:
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.startswith(str(path)) for link in links)


# --- permissions


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
async def test_new_files_are_for_their_owner_alone_and_others_stay_as_they_are(path: Path) -> None:
    agent = Agent("offline", bus=SQLiteBus(path), sessions=SQLiteSessionStore(path))
    async with agent.running(enable_server=False):
        await agent.arun("hi", session_id="s")
        made = sorted(path.parent.iterdir())
        assert {each.name for each in made} >= {"kept.db", "kept.db-owner", "kept.db-wal"}
        assert [stat.S_IMODE(each.stat().st_mode) for each in made] == [0o600] * len(made)
    old = path.with_name("old.db")
    shutil.copy(path, old)
    old.chmod(0o640)
    store = SQLiteSessionStore(old)
    async with store.open():
        assert await store.load("s") is not None
        assert stat.S_IMODE(old.stat().st_mode) == 0o640
