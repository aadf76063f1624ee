"""Messages of which nothing came again and again, on all durable buses: tried one at a time, and none is held up."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from typing import Any, LiteralString, Protocol

import anyio
import pytest
from anyio.lowlevel import checkpoint
from loopback.redis import RedisServer

from definable.agent.bus import Delivery, EventBus, PostgresBus, RedisBus, claims, suspects
from definable.agent.bus.base import ClaimsByName

pytestmark = pytest.mark.anyio

durable = pytest.mark.parametrize("bus", ["sqlite", "redis", "postgres"], indirect=True)
shared = pytest.mark.parametrize("bus", ["redis", "postgres"], indirect=True)

LIMIT = 60.0
"""Seconds that a test may hang."""

UNLUCKY = 2
"""Claims of a message that is tried alone the next time."""

SPENT = 5
"""Claims of one that is a dead letter the next time."""


class Stored(Protocol):
    """What the store holds of how often messages were claimed."""

    def set_claims(self, name: str, claims: int) -> None:
        """As if processes that held messages of this name had died."""
        ...

    def claims(self, message_id: str) -> int:
        """Of one message; 0 when it is gone."""
        ...


class SQLStored:
    def __init__(self, connect: Any, mark: LiteralString) -> None:
        self._connect, self._mark = connect, mark

    def set_claims(self, name: str, claims: int) -> None:
        with closing(self._connect()) as connection, connection:
            name_in_store = name if self._mark == "?" else name.encode()
            update = f"UPDATE definable_event SET claims = {self._mark} WHERE name = {self._mark}"
            connection.execute(update, (claims, name_in_store))

    def claims(self, message_id: str) -> int:
        with closing(self._connect()) as connection:
            found = connection.execute(f"SELECT claims FROM definable_event WHERE id = {self._mark}", (message_id,))
            return (found.fetchone() or (0,))[0]


class RedisStored:
    SET = """
    local function claim(entry, count)
      redis.call('XCLAIM', KEYS[1], 'workers', 'dead', 0, entry, 'IDLE', 1e9, 'RETRYCOUNT', count, 'JUSTID')
    end
    local new = redis.call('XREADGROUP', 'GROUP', 'workers', 'dead', 'COUNT', 1000, 'STREAMS', KEYS[1], '>')
    for _, entry in ipairs(new and new[1][2] or {}) do claim(entry[1], 0) end
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
      if entry[2][4] == ARGV[1] then claim(entry[1], ARGV[2]) end
    end
    """

    GET = """
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
      if entry[2][2] == ARGV[1] then
        local pending = redis.call('XPENDING', KEYS[1], 'workers', entry[1], entry[1], 1)[1]
        return pending and pending[4] or 0
      end
    end
    return 0
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def set_claims(self, name: str, claims: int) -> None:
        self._server.ask("EVAL", self.SET, "1", "{definable}:line", name, str(claims))

    def claims(self, message_id: str) -> int:
        return self._server.number("EVAL", self.GET, "1", "{definable}:line", message_id)


@pytest.fixture
def stored(request: pytest.FixtureRequest, bus: EventBus) -> Stored:
    if isinstance(bus, RedisBus):
        return RedisStored(request.getfixturevalue("redis"))
    if isinstance(bus, PostgresBus):
        import psycopg

        dsn = request.getfixturevalue("postgres")
        return SQLStored(lambda: psycopg.connect(dsn), "%s")
    path = request.getfixturevalue("path")
    return SQLStored(lambda: sqlite3.connect(path), "?")


async def left_by_dead_processes(bus: EventBus, stored: Stored, counts: dict[str, int], claims: dict[str, int]) -> None:
    """Publish so many of each name, which were claimed so often."""
    async with bus.open():
        for name, count in counts.items():
            for _ in range(count):
                bus.publish_nowait(name, {})
        await bus.dead_letters()  # all is written
    for name, count in claims.items():
        stored.set_claims(name, count)


class Handled:
    """What workers handle at once, and what of it are suspects."""

    def __init__(self, stored: Stored) -> None:
        self.names: list[str] = []
        self.claims: list[int] = []
        self.most_suspects = 0
        self._suspects, self._stored = 0, stored

    async def work(self, deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            is_suspect = delivery.name == "unlucky"
            self._suspects += is_suspect
            self.most_suspects = max(self.most_suspects, self._suspects)
            if is_suspect and len(self.claims) % 20 == 0:
                self.claims.append(self._stored.claims(delivery.id))
            elif is_suspect:
                self.claims.append(UNLUCKY + 1)
            await checkpoint()
            self._suspects -= is_suspect
            self.names.append(delivery.name)
            await delivery.ack()


async def until(condition: Any) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


@durable
async def test_two_hundred_suspects_are_handled_one_after_the_other_without_a_pause(
    bus: EventBus, stored: Stored
) -> None:
    await left_by_dead_processes(bus, stored, {"unlucky": 200, "new": 20, "poison": 1}, {"unlucky": 2, "poison": 5})
    handled = Handled(stored)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:
        for _ in range(10):
            workers.start_soon(handled.work, deliveries)
        began = anyio.current_time()
        await until(lambda: len(handled.names) == 220)
        took = anyio.current_time() - began
        [letter] = await bus.dead_letters()
        workers.cancel_scope.cancel()
    assert handled.most_suspects == 1
    assert {*handled.claims} == {UNLUCKY + 1}  # each attempt is written before it begins, or a poison would go on
    assert (letter.name, letter.attempt) == ("poison", SPENT)
    assert took < 40, "they are handed out about one a second"


@durable
async def test_what_waits_behind_a_suspect_is_no_attempt_of_a_process_that_stops(bus: EventBus, stored: Stored) -> None:
    await left_by_dead_processes(bus, stored, {"unlucky": 5, "new": 1}, {"unlucky": UNLUCKY})
    held: list[Delivery] = []

    async def hold(deliveries: AsyncIterator[Delivery]) -> None:
        while True:
            held.append(await anext(deliveries))

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:
        for _ in range(3):
            workers.start_soon(hold, deliveries)
        await until(lambda: sorted(each.name for each in held) == ["new", "unlucky"])
        await bus.dead_letters()
        workers.cancel_scope.cancel()
    attempts: list[int] = []
    async with bus.open(), bus.consume() as deliveries:
        while len(attempts) < 6:
            with anyio.fail_after(LIMIT):
                delivery = await anext(deliveries)
            attempts.append(delivery.attempt)
            await delivery.ack()
    # The one that was held had its third attempt, and the other four had two that nothing came of.
    assert sorted(attempts) == [2, 3, 3, 3, 3, 4]


@durable
async def test_what_of_a_limited_name_is_no_more_tried_lets_the_next_one_be_claimed(
    bus: EventBus, stored: Stored
) -> None:
    assert isinstance(bus, ClaimsByName)
    await left_by_dead_processes(bus, stored, {"poison": 3, "new": 0}, {"poison": SPENT})
    async with bus.open(), bus.consume() as deliveries:
        bus.only_names({"poison"})
        bus.grant_name("poison", 1)
        await bus.publish("poison", {"is_new": True})
        with anyio.fail_after(LIMIT):
            delivery = await anext(deliveries)
        assert delivery.data == {"is_new": True}
        await delivery.ack()
        letters: Sequence[Any] = await bus.dead_letters()
        assert len(letters) == 3


@shared
async def test_others_try_what_waits_behind_a_suspect_that_takes_long(
    bus: EventBus, stored: Stored, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of `claims` and `suspects` are internal: else it would take seconds."""
    for module in (claims, suspects):
        monkeypatch.setattr(module, "SUSPECT_DELAY", 0.1)
    if isinstance(bus, RedisBus):
        other: EventBus = RedisBus(request.getfixturevalue("redis").url)
    else:
        other = PostgresBus(request.getfixturevalue("postgres"))
    await left_by_dead_processes(bus, stored, {"unlucky": 4}, {"unlucky": UNLUCKY})
    held, handled = list[Delivery](), Handled(stored)

    async def hold(deliveries: AsyncIterator[Delivery]) -> None:
        while True:
            held.append(await anext(deliveries))

    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as workers:
        for _ in range(4):
            workers.start_soon(hold, deliveries)
        await until(lambda: held)
        async with other.open(), other.consume() as rest:
            workers.start_soon(handled.work, rest)
            await until(lambda: len(handled.names) == 3)
        assert len(held) == 1
        await held[0].ack()
        workers.cancel_scope.cancel()
