"""SQLite files that cannot be used: one clear error each, and nothing left open."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from definable.errors import ConfigurationError, StorageError
from definable.storage import SQLiteFile

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


def open_descriptors(path: Path) -> int:
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # a thread has closed it meanwhile
            count += os.readlink(entry).startswith(str(path))
    return count


# --- files that cannot be used


@pytest.mark.parametrize("name", ["", ":memory:", "file:notes.db?mode=memory"])
def test_what_is_no_file_on_disk_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="path of a file"):
        SQLiteFile(name)


@pytest.mark.parametrize("options", [{"synchronous": "OFF"}, {"busy_timeout": -1}, {"busy_timeout": float("nan")}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SQLiteFile("x.db", **options)


async def must_fail(file: SQLiteFile, match: str) -> None:
    with pytest.raises(StorageError, match=match) as caught:
        async with file.open():
            pass
    assert str(file.path) in str(caught.value)
    with pytest.raises(StorageError, match=match):
        await file.write(adding("a"))
    assert open_descriptors(file.path) == 0


async def test_a_file_that_is_no_database(path: Path) -> None:
    await anyio.Path(path).write_text("Dear diary, " * 1000)
    await must_fail(SQLiteFile(path, SCHEMA), "it is not an SQLite database")


async def test_a_directory(tmp_path: Path) -> None:
    await must_fail(SQLiteFile(tmp_path, SCHEMA), "it cannot be opened")


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    await must_fail(SQLiteFile(tmp_path / "taken" / "notes.db", SCHEMA), "its directory cannot be made")


async def test_a_damaged_file_and_its_repair(path: Path) -> None:
    file = SQLiteFile(path, SCHEMA)
    await file.write(adding(*(["x" * 100] * 1000)))
    good = await anyio.Path(path).read_bytes()
    await anyio.Path(path).write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))
    async with file.open():
        with pytest.raises(StorageError, match="it is damaged"):
            await file.read(notes)
    await anyio.Path(path).write_bytes(good)
    assert len(await file.read(notes)) == 1000


async def test_a_full_disk(path: Path) -> None:
    """SQLite answers a page limit as it does a full disk."""
    file = SQLiteFile(path, SCHEMA)
    async with file.open():
        await file.write(adding("kept"))

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA max_page_count = 10")
            adding(*(["x" * 1000] * 1000))(connection)

        with pytest.raises(StorageError, match="the disk is full"):
            await file.write(fill)
        await file.write(adding("again"))
        assert await file.read(notes) == ["kept", "again"]


async def test_closing_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("definable.storage.sqlite_file.CLOSE_TIMEOUT", 0.05)
    file = SQLiteFile(path, SCHEMA)
    async with file.open():
        holder = threading.Thread(target=file._lock.acquire)
        holder.start()
        holder.join()
    file._lock.release()
    with anyio.fail_after(5):
        while open_descriptors(path):
            await anyio.to_thread.run_sync(threading.Event().wait, 0.01)
