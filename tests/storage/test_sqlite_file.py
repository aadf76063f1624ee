"""One SQLite file from async code: whole transactions, clear errors, one thread at a time."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from definable.errors import StorageError
from definable.storage import SQLiteFile
from definable.storage.sqlite_file import _Lease

pytestmark = pytest.mark.anyio

SCHEMA = ["CREATE TABLE IF NOT EXISTS note (text TEXT)"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


def adding(*texts: str) -> Any:
    def add(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO note VALUES (?)", [(text,) for text in texts])

    return add


def notes(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM note ORDER BY rowid")]


def pragma(name: str) -> Any:
    return lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0]


def open_descriptors(path: Path) -> int:
    directory = Path("/proc/self/fd")
    targets = [os.readlink(entry) for entry in directory.iterdir() if entry.exists()]
    return sum(target.startswith(str(path)) for target in targets)


# --- open and closed


async def test_it_works_without_open_and_leaves_nothing_open(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    await file.write(adding("a"))
    assert await file.read(notes) == ["a"]
    assert open_descriptors(path) == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["notes.db"]


async def test_open_holds_one_connection_until_the_last_holder_leaves(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    connections: set[int] = set()
    async with file.open():
        async with file.open():
            await file.write(lambda connection: connections.add(id(connection)))
        await file.write(lambda connection: connections.add(id(connection)))
        assert len(connections) == 1
        assert open_descriptors(path) > 0
    assert open_descriptors(path) == 0
    async with file.open():
        await file.write(adding("again"))
    assert await file.read(notes) == ["again"]


async def test_the_file_is_set_up_as_promised(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA, busy_timeout=1.5)
    async with file.open():
        assert await file.read(pragma("journal_mode")) == "wal"
        assert await file.read(pragma("synchronous")) == 1
        assert await file.read(pragma("foreign_keys")) == 1
        assert await file.read(pragma("busy_timeout")) == 1500
    assert await SQLiteFile(path, synchronous="FULL").read(pragma("synchronous")) == 2


async def test_directories_are_made(tmp_path: Path) -> None:
    await SQLiteFile(tmp_path / "a" / "b" / "notes.db", SCHEMA).write(adding("a"))
    assert (tmp_path / "a" / "b" / "notes.db").is_file()


async def test_a_relative_path_is_of_the_directory_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = SQLiteFile("notes.db", SCHEMA)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    await file.write(adding("a"))
    assert (tmp_path / "notes.db").is_file()


# --- transactions


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_transaction_that_raises_leaves_nothing(path: Path, is_open: bool) -> None:
    file = SQLiteFile(path, SCHEMA)

    def fail(connection: sqlite3.Connection) -> None:
        adding("lost")(connection)
        raise LookupError("mine")

    async def scenario() -> None:
        await file.write(adding("kept"))
        with pytest.raises(LookupError, match="mine"):
            await file.write(fail)
        await file.write(adding("too"))
        assert await file.read(notes) == ["kept", "too"]

    if is_open:
        async with file.open():
            await scenario()
    else:
        await scenario()


async def test_the_workers_result_is_returned(path: Path) -> None:
    assert await SQLiteFile(path).write(lambda connection: 7) == 7


async def test_a_statement_that_fails_is_a_storage_error_and_heals(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    async with file.open():
        with pytest.raises(StorageError, match=r"notes\.db: near \"NO\": syntax error") as caught:
            await file.write(lambda connection: connection.execute("NO SQL"))
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        await file.write(adding("a"))
        assert await file.read(notes) == ["a"]


async def test_a_connection_on_which_sqlite_failed_is_not_used_again(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    async with file.open():
        await file.write(adding("old"))
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            await anyio.Path(path.parent / name).unlink()
        with pytest.raises(StorageError):
            await file.write(lambda connection: connection.execute("NO SQL"))
        assert await file.read(notes) == []


async def test_transactions_of_many_tasks_do_not_mix(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    threads: set[int] = set()

    def add_pair(connection: sqlite3.Connection) -> None:
        count = len(notes(connection))
        adding(f"{count}", f"{count + 1}")(connection)
        threads.add(threading.get_ident())

    with anyio.fail_after(20):
        async with file.open(), anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(file.write, add_pair)
    assert await file.read(notes) == [str(number) for number in range(200)]


async def test_a_cancelled_transaction_is_whole_or_absent_and_the_next_is_fine(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    with anyio.fail_after(20):
        async with file.open():
            for steps in range(30):
                async with anyio.create_task_group() as tasks:
                    for text in "ab":
                        tasks.start_soon(file.write, adding(f"{steps}{text}1", f"{steps}{text}2"))
                    for _ in range(steps % 10):
                        await checkpoint()
                    tasks.cancel_scope.cancel()
            kept = await file.read(notes)
    assert kept
    assert all(first[:-1] == second[:-1] for first, second in zip(kept[::2], kept[1::2], strict=True))


@pytest.mark.parametrize("moment", range(5))
def test_asyncios_own_cancellation_leaves_nothing_half_done_or_open(path: Path, moment: int) -> None:
    async def scenario() -> None:
        file = SQLiteFile(path, SCHEMA)

        async def use() -> None:
            async with file.open():
                await file.write(adding("1", "2"))

        for _ in range(20):
            task = asyncio.create_task(use())
            for _ in range(moment):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=10)
        assert len(await file.read(notes)) % 2 == 0

    asyncio.run(scenario())
    assert open_descriptors(path) == 0


def test_a_holder_that_left_before_its_thread_began_holds_nothing(path: Path) -> None:
    file, lease = SQLiteFile(path, SCHEMA), _Lease()
    file._end(lease)
    file._begin(lease)
    assert open_descriptors(path) == 0


# --- others in the file


async def test_who_waits_for_a_lock_gets_it(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    async with file.open():
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(file.write, adding("late"))
                await anyio.wait_all_tasks_blocked()
                assert await SQLiteFile(path).read(notes) == []
                other.execute("COMMIT")
        assert await file.read(notes) == ["late"]


async def test_a_file_that_stays_locked_is_a_clear_error(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA, busy_timeout=0.05)
    async with file.open():
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageError, match=r"notes\.db: it stayed locked"):
                await file.write(adding("a"))
            other.execute("ROLLBACK")
        await file.write(adding("b"))
        assert await file.read(notes) == ["b"]


async def test_a_new_file_that_somebody_else_writes_to_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite by itself gives up at once when it should turn such a file to WAL."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("time.sleep", lambda seconds: other.in_transaction and other.execute("COMMIT"))
        with anyio.fail_after(10):
            await SQLiteFile(path, SCHEMA).write(adding("a"))
        monkeypatch.undo()
    assert await SQLiteFile(path).read(notes) == ["a"]


async def test_nobody_else_writes_between_what_a_transaction_reads_and_writes(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)

    def read_then_write(connection: sqlite3.Connection) -> None:
        notes(connection)
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("INSERT INTO note VALUES ('theirs')")
        adding("mine")(connection)

    await file.write(read_then_write)
    assert await file.read(notes) == ["mine"]


async def test_event_loops_of_both_backends_take_turns(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    failures: list[BaseException] = []

    async def use(number: int) -> None:
        for turn in range(10):
            async with file.open():
                await file.write(adding(f"{number}.{turn}"))
            await file.write(adding(f"{number}.{turn}"))

    def run(number: int) -> None:
        try:
            anyio.run(use, number, backend=("asyncio", "trio")[number % 2])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, 30)
    assert not failures
    assert len(await file.read(notes)) == 120
    assert open_descriptors(path) == 0


CHILD = """
import sys, time, anyio
from definable.storage import SQLiteFile
path, name, start = sys.argv[1], sys.argv[2], float(sys.argv[3])
file = SQLiteFile(path, ["CREATE TABLE IF NOT EXISTS note (text TEXT)", "CREATE INDEX IF NOT EXISTS i ON note (text)"])
async def use():
    for number in range(30):
        await file.write(lambda c: c.execute("INSERT INTO note VALUES (?)", (f"{name} {number}",)))
time.sleep(max(0, start - time.time()))
anyio.run(use)
"""


def test_processes_that_make_and_fill_a_file_at_once(path: Path) -> None:
    """Turning a new file to WAL at once is what SQLite itself does not wait for."""
    start = str(time.time() + 1.0)
    children = [subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(n), start]) for n in range(6)]
    assert [child.wait(timeout=40) for child in children] == [0] * 6
    with closing(sqlite3.connect(path)) as connection:
        assert len(notes(connection)) == 180
