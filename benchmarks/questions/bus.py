"""What does an event cost on its way through the bus, next to SQLite by itself?

`accepted`: a hundred tasks at once have events accepted (`aemit`), each event as safe as the bus makes it before its
task goes on; nothing is handled meanwhile. `handled`: from the first event to the end of the last one's handler.

The baseline is what one would write by hand to make the same promise to the same tasks: rows wait for one thread,
which commits what has come together; then they are read and deleted, a hundred a commit, and nobody handles them.
SQLite alone makes no promise to anybody: one thread, a hundred rows a commit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import anyio
from anyio import to_thread

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from definable.agent import Agent
from definable.agent.bus import EventBus, MemoryBus, SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent

TASKS = 100
"""So many have events accepted at once."""

ROWS = 100
"""A commit, where nobody waits."""

DATA = {"body": {"n": 1}, "source": "event(job)", "timestamp": 1_750_000_000.5}

SETUP = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    """CREATE TABLE event (position INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
    data BLOB NOT NULL)""",
)


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    count = max(4 * effort.runs // TASKS, 1) * TASKS
    with TemporaryDirectory() as directory:
        path = Path(directory) / "events.db"
        if contender.subject == "sqlite3":
            return sqlite_alone(path, count)
        subject = {"by hand": by_hand, "SQLiteBus": on_sqlite_bus, "MemoryBus": on_memory_bus}[contender.subject]
        return anyio.run(subject, path, count, backend=contender.backend)


# --- ours


async def on_sqlite_bus(path: Path, count: int) -> Mapping[str, float]:
    return await through_agent(SQLiteBus(path), count)


async def on_memory_bus(path: Path, count: int) -> Mapping[str, float]:
    return await through_agent(MemoryBus(count), count)


async def through_agent(bus: EventBus, count: int) -> Mapping[str, float]:
    agent = Agent("offline", bus=bus)
    begin, end = anyio.Event(), anyio.Event()
    handled = 0

    @agent.on(EventTrigger("job"))
    async def handle(event: TriggerEvent) -> None:
        nonlocal handled
        await begin.wait()
        handled += 1
        if handled == count:
            end.set()

    async with agent.running(enable_server=False):
        started = perf_counter()
        await by_many_tasks(lambda: agent.aemit("job", DATA["body"]), count)
        accepted = perf_counter()
        begin.set()
        await end.wait()
        return per_event(count, started, accepted, perf_counter())


# --- SQLite by itself


def sqlite_alone(path: Path, count: int) -> Mapping[str, float]:
    with connected(path) as connection:
        started = perf_counter()
        for begin in range(0, count, ROWS):
            insert(connection, [row(number) for number in range(begin, begin + ROWS)])
        accepted = perf_counter()
        take_all(connection)
        return per_event(count, started, accepted, perf_counter())


async def by_hand(path: Path, count: int) -> Mapping[str, float]:
    with connected(path) as connection:
        async with anyio.create_task_group() as writing:
            commits = GroupCommits(connection)
            writing.start_soon(commits.write)
            started = perf_counter()
            await by_many_tasks(commits.accept, count)
            accepted = perf_counter()
            writing.cancel_scope.cancel()
        await to_thread.run_sync(take_all, connection)
        return per_event(count, started, accepted, perf_counter())


class GroupCommits:
    """The least that lets many tasks wait for their rows, which one thread commits together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._number = 0
        self._begin()

    def _begin(self) -> None:
        self._rows: list[tuple[str, bytes]] = []
        self._wanted = anyio.Event()
        self._written = anyio.Event()

    async def accept(self) -> None:
        self._number += 1
        self._rows.append(row(self._number))
        self._wanted.set()
        await self._written.wait()

    async def write(self) -> None:
        while True:
            await self._wanted.wait()
            rows, written = self._rows, self._written
            self._begin()
            await to_thread.run_sync(insert, self._connection, rows)
            written.set()


@contextmanager
def connected(path: Path) -> Generator[sqlite3.Connection, None, None]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        for statement in SETUP:
            connection.execute(statement)
        yield connection


def row(number: int) -> tuple[str, bytes]:
    return f"event-{number}", json.dumps(DATA).encode()


def insert(connection: sqlite3.Connection, rows: list[tuple[str, bytes]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO event (id, name, attempt, data) VALUES (?, 'job', 0, ?)", rows)
    connection.execute("COMMIT")


def take_all(connection: sqlite3.Connection) -> None:
    """Count the attempt, read the data, delete, as many rows a commit as waits."""
    while True:
        connection.execute("BEGIN IMMEDIATE")
        taken = connection.execute(f"SELECT position, data FROM event ORDER BY position LIMIT {ROWS}").fetchall()
        positions = [(position,) for position, _ in taken]
        connection.executemany("UPDATE event SET attempt = attempt + 1 WHERE position = ?", positions)
        connection.execute("COMMIT")
        if not taken:
            return
        for _, data in taken:
            json.loads(data)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM event WHERE position = ?", positions)
        connection.execute("COMMIT")


# --- for all of them


async def by_many_tasks(call: Callable[[], Awaitable[object]], count: int) -> None:
    """Call so often, from `TASKS` tasks at once."""

    async def work() -> None:
        for _ in range(count // TASKS):
            await call()

    async with anyio.create_task_group() as tasks:
        for _ in range(TASKS):
            tasks.start_soon(work)


def per_event(count: int, started: float, accepted: float, handled: float) -> Mapping[str, float]:
    """Microseconds."""
    return {"accepted": (accepted - started) / count * 1e6, "handled": (handled - started) / count * 1e6}


QUESTION = Question(
    name="bus",
    asks="what does an event cost on its way through the bus?",
    contenders=(
        Contender("group commit by hand, asyncio", "by hand"),
        Contender("group commit by hand, trio", "by hand", backend="trio"),
        Contender("sqlite3 alone", "sqlite3"),
        Contender("SQLiteBus, asyncio", "SQLiteBus", ours=True),
        Contender("SQLiteBus, trio", "SQLiteBus", backend="trio", ours=True),
        Contender("MemoryBus, asyncio", "MemoryBus", ours=True),
        Contender("MemoryBus, trio", "MemoryBus", backend="trio", ours=True),
    ),
    columns=(
        Column("accepted", "accepted, us", target=2.0, target_is_ratio=True),
        Column("handled", "handled, us"),
    ),
    measure=measure,
)
