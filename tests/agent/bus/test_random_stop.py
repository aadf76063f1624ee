"""A stop at any moment: what clients were told, what the report says and what the store holds agree to the last event.

`DEFINABLE_STOPS=1000` makes a thousand rounds a bus instead of a few; `DEFINABLE_STOPS_SEED=7` begins with that seed.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from loopback.redis import RedisServer

from definable.agent import Agent
from definable.agent.bus import EventBus, MemoryBus, PostgresBus, RedisBus, SQLiteBus
from definable.agent.bus.batch import decode_data
from definable.agent.bus.redis import RedisStore
from definable.agent.runtime import ShutdownReport
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import EventBufferFull, EventBusClosed

ROUNDS = int(os.environ.get("DEFINABLE_STOPS", "4"))

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60 + 10 * ROUNDS)]
FIRST_SEED = int(os.environ.get("DEFINABLE_STOPS_SEED", "1"))

LIMIT = 60.0
"""Seconds that a round may hang."""

KINDS = ("fine", "fine", "nap", "limited", "fails", "retried", "later", "keyed", "keyed")


@dataclass
class Notes:
    """What clients and handlers know."""

    accepted: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    raised: set[str] = field(default_factory=set)
    """Those whose last attempt failed."""
    order: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """Of events with a key, those that were done, by the client, whose events are accepted in order."""


@dataclass
class Home:
    """Where one kind of bus keeps its events."""

    bus: Callable[[], EventBus]
    stored: Callable[[], set[str]]
    """The ids that it holds, but for dead letters; after the stop."""
    dead: Callable[[], set[str]]


def agent_on(bus: EventBus, notes: Notes, chance: random.Random) -> Agent:
    agent = Agent("offline", bus=bus)

    def add(kind: str, **options: Any) -> None:
        @agent.on(EventTrigger(kind, **options))
        async def handle(event: TriggerEvent) -> None:
            if kind in ("nap", "limited", "keyed"):
                await anyio.sleep(chance.uniform(0.0, 0.1))
            if kind == "fails" or (kind == "retried" and event.attempt == 1):
                if kind == "fails":
                    notes.raised.add(event.body["id"])
                raise RuntimeError(kind)
            if kind == "keyed":
                notes.order.setdefault(event.body["client"], []).append(int(event.body["id"]))
            notes.done.add(event.body["id"])

    for kind in {*KINDS}:
        options: dict[str, Any] = {"key": lambda event: event.body["client"]} if kind == "keyed" else {}
        add(kind, max_concurrency=1 if kind == "limited" else None, retries=3 if kind == "retried" else 0, **options)
    return agent


async def emit(agent: Agent, notes: Notes, chance: random.Random, ids: itertools.count[int], client: int) -> None:
    """Emit until it is refused."""
    while True:
        kind, id = chance.choice(KINDS), f"{next(ids)}"
        delay = chance.choice((0.02, 30.0)) if kind == "later" else None
        try:
            if chance.random() < 0.5:
                agent.emit(kind, {"id": id, "client": client}, delay=delay)
            else:
                await agent.aemit(kind, {"id": id, "client": client}, delay=delay)
        except EventBufferFull:
            pass
        except EventBusClosed:
            return
        else:
            notes.accepted.add(id)
        await anyio.sleep(chance.uniform(0.0, 0.01))


async def make_round(home: Home, seed: int) -> tuple[Notes, ShutdownReport]:
    chance, notes = random.Random(seed), Notes()
    agent, ids = agent_on(home.bus(), notes, chance), itertools.count()
    async with anyio.create_task_group() as clients:
        grace = chance.choice((0.0, 0.05, 0.3, 5.0))
        options: dict[str, Any] = {"event_workers": chance.choice((1, 5, 50)), "enable_server": False}
        async with agent.running(shutdown_timeout=grace, **options) as runtime:
            for client in range(chance.choice((1, 5))):
                clients.start_soon(emit, agent, notes, chance, ids, client)
            await anyio.sleep(chance.uniform(0.0, 0.3))
        report = runtime.report
    assert report is not None
    return notes, report


def check(home: Home, notes: Notes, report: ShutdownReport, seed: int, *, is_durable: bool) -> Counter[str]:
    stored, dead = home.stored(), home.dead()
    counts = report.sources["event"]
    told = (seed, report, len(notes.accepted), len(notes.done), len(stored), len(dead))
    cut = notes.done & stored  # cut off between the handler's last word and the settlement: repeated
    assert not dead & stored, told
    assert counts.completed - counts.failed == len(notes.done - stored), told
    assert len(cut) <= counts.cancelled, told
    if is_durable:
        assert notes.accepted == (notes.done | stored | dead), (told, notes.accepted ^ (notes.done | stored | dead))
        assert counts.never_started == 0, told
    else:
        ended = counts.completed + counts.cancelled + counts.never_started
        assert len(notes.accepted) == ended, told
    assert dead <= notes.raised, told
    for done in notes.order.values():
        assert done == sorted(done), told
    if is_durable:
        assert counts.failed == len(dead), told
    return Counter(accepted=len(notes.accepted), completed=counts.completed, dead=len(dead), stored=len(stored))


# --- what each store holds


def ids_in(bodies: list[tuple[Any]]) -> set[str]:
    found: set[str] = set()
    for (body,) in bodies:
        data = decode_data(bytes(body))["body"]
        found.add((data.get("data") or data)["id"])
    return found


def memory_home() -> Home:
    bus = MemoryBus()
    return Home(lambda: bus, set, set)


def sqlite_home(path: Path) -> Home:
    def read(*tables: str) -> set[str]:
        with closing(sqlite3.connect(path)) as connection:
            return ids_in([row for table in tables for row in connection.execute(f"SELECT data FROM {table}")])

    return Home(
        lambda: SQLiteBus(path),
        lambda: read("definable_event", "definable_event_later"),
        lambda: read("definable_event_dead"),
    )


def postgres_home(dsn: str) -> Home:
    def read(table: str) -> set[str]:
        with psycopg.connect(dsn) as connection:
            return ids_in(connection.execute(f"SELECT data FROM {table}").fetchall())  # type: ignore[arg-type]

    return Home(lambda: PostgresBus(dsn), lambda: read("definable_event"), lambda: read("definable_event_dead"))


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_what_was_told_reported_and_stored_agree_whenever_it_stops(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    sums: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + ROUNDS):
        with anyio.fail_after(LIMIT):
            home = await new_home(kind, request, tmp_path / f"{seed}.db")
            notes, report = await make_round(home, seed)
            if kind == "redis":
                home = await read_redis(request.getfixturevalue("redis"))
            sums += check(home, notes, report, seed, is_durable=kind != "memory")
        if seed % 50 == 0:
            sys.stdout.write(f"{seed} stops, {kind}: {dict(sums)}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{ROUNDS} stops, {kind}: {dict(sums)}\n")


async def new_home(kind: str, request: pytest.FixtureRequest, path: Path) -> Home:
    if kind == "memory":
        return memory_home()
    if kind == "sqlite":
        return sqlite_home(path)
    if kind == "postgres":
        return postgres_home(request.getfixturevalue("shared_postgres").new_schema())
    server: RedisServer = request.getfixturevalue("redis")
    server.ask("FLUSHALL")
    return Home(lambda: RedisBus(server.url), set, set)


BEHIND = """local found = {}
for _, key in ipairs(redis.call('KEYS', '{definable}:groups:*')) do
    for _, packed in ipairs(redis.call('LRANGE', key, 0, -1)) do found[#found + 1] = cmsgpack.unpack(packed)[3] end
end
return found"""
"""What waits behind others of its group."""


async def read_redis(server: RedisServer) -> Home:
    """What it holds now."""
    bus = RedisBus(server.url)
    async with bus.open():
        assert bus._queue is not None
        store = bus._queue.store
        assert isinstance(store, RedisStore)
        assert store._commands is not None
        names = [name.decode() for name in await store._commands.call(b"HKEYS", "{definable}:parked")]
        found = [(body,) async for _, body in store._script.waiting(names, 1_000_000)]
        found += [(body,) for body in await store._commands.call(b"EVAL", BEHIND, 0)]
        dead = {letter.data["body"]["id"] for letter in await bus.dead_letters()}
    stored = ids_in(found)
    return Home(lambda: bus, lambda: stored, lambda: dead)
