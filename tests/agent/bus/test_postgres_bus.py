"""What only a bus on PostgreSQL has: replicas, leases, notifications, a server that goes away; beyond the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest
from loopback.postgres import PostgresServer

from definable.agent import Agent
from definable.agent.bus import Delivery, PostgresBus
from definable.agent.bus import shared as implementation
from definable.agent.bus.postgres import PostgresStore
from definable.agent.bus.postgres_claims import PostgresConsumer
from definable.agent.session import PostgresSessionStore
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError, SessionConflict, StorageError
from definable.storage.postgres_database import PostgresAway, PostgresDatabase

pytestmark = pytest.mark.anyio

LIMIT = 40.0
"""Seconds that a test may hang."""

LEASE = 1.0
"""Seconds."""


async def take(deliveries: AsyncIterator[Delivery], count: int = 1) -> list[Delivery]:
    with anyio.fail_after(LIMIT):
        return [await anext(deliveries) for _ in range(count)]


async def eventually(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


def store_of(bus: PostgresBus) -> PostgresStore:
    assert bus._queue is not None
    store = bus._queue.store
    assert isinstance(store, PostgresStore)
    return store


def asked(dsn: str, statement: str) -> Sequence[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[arg-type]


def die(bus: PostgresBus) -> None:
    """As a process that is killed: its lease is not renewed, and nothing is given back."""
    store = store_of(bus)

    async def nothing(held: Any = None) -> None: ...

    store.consumer.renew = nothing  # type: ignore[method-assign]
    store.close = nothing  # type: ignore[method-assign]


# --- replicas


async def test_replicas_share_events_and_each_is_handled_by_one(postgres: str) -> None:
    first, second = PostgresBus(postgres), PostgresBus(postgres)
    seen: list[int] = []

    async def work(deliveries: AsyncIterator[Delivery]) -> None:
        async for delivery in deliveries:
            seen.append(delivery.data["n"])
            await delivery.ack()

    async with (
        first.open(),
        second.open(),
        first.consume() as some,
        second.consume() as others,
        anyio.create_task_group() as workers,
    ):
        for deliveries in (some, others) * 3:
            workers.start_soon(work, deliveries)
        for n in range(200):
            (first, second)[n % 2].publish_nowait("job", {"n": n})
        await eventually(lambda: len(seen) >= 200)
        workers.cancel_scope.cancel()
    assert sorted(seen) == [*range(200)]
    assert asked(postgres, "SELECT count(*) FROM definable_event") == [(0,)]


async def test_a_notification_wakes_another_replica(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "SWEEP_PAUSE", 10 * LIMIT)
    publisher, other = PostgresBus(postgres, lease=100 * LIMIT), PostgresBus(postgres, lease=100 * LIMIT)
    async with publisher.open(), other.open(), other.consume() as deliveries, anyio.create_task_group() as group:
        taken: list[Delivery] = []

        async def wait() -> None:
            taken.extend(await take(deliveries))

        group.start_soon(wait)
        await eventually(
            lambda: asked(postgres, "SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN definable_event'")
        )
        await publisher.publish("job", {"n": 1})
        await eventually(lambda: taken)
        await taken[0].ack()


async def test_without_notifications_others_are_looked_for_each_second(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(consumer: PostgresConsumer) -> None:
        raise psycopg.OperationalError("a pooler in transaction mode")

    monkeypatch.setattr(PostgresConsumer, "_open_listener", refuse)
    publisher, other = PostgresBus(postgres), PostgresBus(postgres)
    async with publisher.open(), other.open(), other.consume() as deliveries, anyio.create_task_group() as group:
        taken: list[Delivery] = []

        async def wait() -> None:
            taken.extend(await take(deliveries))

        group.start_soon(wait)
        await anyio.sleep(0.1)
        await publisher.publish("job", {"n": 1})
        await eventually(lambda: taken)
        await taken[0].ack()


async def test_what_a_process_that_dies_held_is_the_next_attempt_of_another(postgres: str) -> None:
    dying, other = PostgresBus(postgres, lease=LEASE), PostgresBus(postgres, lease=LEASE)
    async with other.open(), other.consume() as others:
        with anyio.CancelScope() as death:
            async with dying.open(), dying.consume() as deliveries:
                await dying.publish("job", {"n": 1})
                assert await dying.claim("promised", 60)
                [held] = await take(deliveries)
                die(dying)
                death.cancel()
        [taken] = await take(others)
        assert (taken.id, taken.attempt) == (held.id, 2)
        await taken.ack()
        assert await other.claim("promised", 60), "nobody knows whether its work was done"


async def test_a_handler_whose_lease_is_lost_is_cancelled_and_what_it_says_is_not_heard(postgres: str) -> None:
    slow, other = PostgresBus(postgres, lease=LEASE), PostgresBus(postgres, lease=LEASE)
    async with slow.open(), slow.consume() as deliveries, other.open(), other.consume() as others:
        await slow.publish("job", {"n": 1})
        [lost] = await take(deliveries)
        store = store_of(slow)
        renew, back = store.consumer.renew, anyio.Event()

        async def when_back() -> None:
            await back.wait()
            await renew()

        store.consumer.renew = when_back  # type: ignore[method-assign]
        [taken] = await take(others)
        assert (taken.id, taken.attempt) == (lost.id, 2)
        back.set()
        await eventually(lambda: lost.lease is not None and lost.lease.cancel_called)
        await lost.ack()
        await lost.dead("late")
        assert await slow.dead_letters() == []
        assert asked(postgres, "SELECT count(*) FROM definable_event") == [(1,)]
        await taken.ack()


async def test_an_orderly_stop_gives_back_what_is_held_and_keeps_claimed_keys(postgres: str) -> None:
    stopping, other = PostgresBus(postgres, lease=LIMIT), PostgresBus(postgres, lease=LIMIT)
    async with other.open(), other.consume() as others:
        async with stopping.open(), stopping.consume() as deliveries:
            await stopping.publish("job", {"n": 1})
            await stopping.publish("job", {"n": 2})
            [begun, parked] = await take(deliveries, 2)
            assert await stopping.claim("answered", 60)
            parked.park()  # type: ignore[attr-defined]
        again = await take(others, 2)
        attempts = {each.data["n"]: each.attempt for each in again}
        assert attempts == {begun.data["n"]: 2, parked.data["n"]: 1}
        assert not await other.claim("answered", 60)
        for each in again:
            await each.ack()


async def test_a_message_of_which_nothing_comes_is_a_dead_letter(postgres: str) -> None:
    async with (bus := PostgresBus(postgres)).open():
        await bus.publish("poison", {})
    for attempt in (1, 2, 3):
        dying = PostgresBus(postgres, lease=LEASE / 2, max_deliveries=3)
        with anyio.CancelScope() as death:
            async with dying.open(), dying.consume() as deliveries:
                [delivery] = await take(deliveries)
                assert delivery.attempt == attempt
                die(dying)
                death.cancel()
    bus = PostgresBus(postgres, max_deliveries=3)
    async with bus.open(), bus.consume() as deliveries, anyio.create_task_group() as group:
        group.start_soon(anext, deliveries)
        await eventually(lambda: asked(postgres, "SELECT 1 FROM definable_event_dead"))
        [letter] = await bus.dead_letters()
        assert (letter.name, letter.attempt) == ("poison", 3)
        group.cancel_scope.cancel()


async def test_what_has_no_handler_waits_for_one_and_is_a_dead_letter_at_last(postgres: str) -> None:
    old, new = PostgresBus(postgres, unknown_ttl=LIMIT), PostgresBus(postgres)
    async with old.open(), old.consume() as deliveries, anyio.create_task_group() as group:
        old.only_names({"known"})  # type: ignore[attr-defined]
        group.start_soon(anext, deliveries)
        await old.publish("new", {"n": 1})
        await eventually(lambda: asked(postgres, "SELECT 1 FROM definable_event_unknown"))
        async with new.open(), new.consume() as others:
            new.only_names({"new"})  # type: ignore[attr-defined]
            [taken] = await take(others)
            assert taken.attempt == 1
            await taken.ack()
        group.cancel_scope.cancel()
    impatient = PostgresBus(postgres, unknown_ttl=0.1)
    async with impatient.open(), impatient.consume() as deliveries, anyio.create_task_group() as group:
        impatient.only_names({"known"})  # type: ignore[attr-defined]
        group.start_soon(anext, deliveries)
        await impatient.publish("nobody's", {"n": 2})
        await eventually(lambda: asked(postgres, "SELECT 1 FROM definable_event_dead"))
        [letter] = await impatient.dead_letters()
        assert (letter.name, letter.why) == ("nobody's", "no handler is registered for 'nobody's'")
        group.cancel_scope.cancel()


# --- services that share a database


async def test_services_of_different_names_have_events_sessions_and_keys_of_their_own(postgres: str) -> None:
    handled: dict[str, list[str]] = {"sales": [], "support": []}
    agents = [
        Agent("offline", name=name, bus=PostgresBus(postgres), sessions=PostgresSessionStore(postgres))
        for name in handled
    ]
    for agent in agents:

        @agent.on(EventTrigger("job"))
        async def job(event: TriggerEvent, name: str = agent.name) -> None:
            handled[name].append(event.body["to"])

    async with agents[0].running(enable_server=False), agents[1].running(enable_server=False):
        for agent in agents:
            await agent.aemit("job", {"to": agent.name})
            await agent.arun("hello", session_id="s")
        await eventually(lambda: all(handled.values()))
    assert handled == {"sales": ["sales"], "support": ["support"]}
    assert sorted(asked(postgres, "SELECT service FROM definable_session")) == [
        ("definable:sales",),
        ("definable:support",),
    ]


def test_a_bus_that_agents_of_several_names_are_given_needs_a_service(postgres: str) -> None:
    shared = PostgresBus(postgres)
    Agent("offline", name="sales", bus=shared)
    with pytest.raises(ConfigurationError, match="give it a service="):
        Agent("offline", name="support", bus=shared)


# --- a server that goes away


async def test_a_server_that_dies_and_comes_back_loses_nothing(own_postgres: PostgresServer) -> None:
    bus = PostgresBus(own_postgres.url, timeout=1)
    async with bus.open(), bus.consume() as deliveries:
        await bus.publish("before", {})
        await anyio.to_thread.run_sync(own_postgres.kill)
        with pytest.raises(StorageError, match=r"the event was not accepted|is not known"):
            await bus.publish("refused", {})
        bus.publish_nowait("kept", {})
        assert isinstance(bus.failure, PostgresAway)
        await anyio.to_thread.run_sync(own_postgres.start)
        names = [each.name for each in await take(deliveries, 2)]
        assert [*names] == ["before", "kept"]
        assert bus.failure is None
        assert await bus.publish("after", {}, dedupe_key="k")
        assert not await bus.publish("after", {}, dedupe_key="k")


async def test_every_wait_for_a_server_that_hangs_is_bounded(own_postgres: PostgresServer) -> None:
    bus = PostgresBus(own_postgres.url, timeout=1)
    sessions = PostgresSessionStore(own_postgres.url, timeout=1)
    async with bus.open(), sessions.open(), bus.consume() as deliveries:
        with own_postgres.stopped(), anyio.fail_after(LIMIT):
            for call in (
                lambda: bus.publish("job", {}),
                lambda: bus.claim("k", 60),
                bus.dead_letters,
                lambda: sessions.load("s"),
            ):
                with pytest.raises(StorageError):
                    await call()
            assert bus.failure is not None
            assert sessions.failure is not None
            bus.publish_nowait("kept", {})
        [kept] = await take(deliveries)
        assert kept.name == "kept"
        await kept.ack()
        assert await sessions.load("s") is None
        assert sessions.failure is None


async def test_a_batch_whose_answer_got_lost_is_written_once(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = PostgresBus(postgres)
    transact, lost = PostgresDatabase.transact, ["publish", "claim"]

    async def losing(database: PostgresDatabase, work: Any) -> Any:
        answer = await transact(database, work)
        what = "publish" if getattr(answer, "repeated", None) is not None and not answer.claimed else "claim"
        if getattr(answer, "claimed", None) is not None and what in lost and (what == "publish" or answer.claimed):
            lost.remove(what)
            raise PostgresAway("the answer got lost")
        return answer

    async with bus.open(), bus.consume() as deliveries:
        monkeypatch.setattr(PostgresDatabase, "transact", losing)
        assert await bus.publish("job", {"n": 1}, dedupe_key="k")
        assert not await bus.publish("job", {"n": 1}, dedupe_key="k")
        assert asked(postgres, "SELECT count(*) FROM definable_event") == [(1,)]
        [delivery] = await take(deliveries)
        assert lost == []
        assert delivery.attempt == 1
        await delivery.ack()
        await bus.dead_letters()
        assert asked(postgres, "SELECT count(*) FROM definable_event") == [(0,)]


async def test_an_event_that_the_server_will_never_take_fails_alone(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = PostgresBus(postgres)
    async with bus.open(), bus.consume() as deliveries:
        with psycopg.connect(postgres) as connection:
            connection.execute("ALTER TABLE definable_event ADD CHECK (true)")
            connection.execute(
                """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF position('poison'::bytea IN new.data) > 0 THEN
                    RAISE EXCEPTION 'too much' USING ERRCODE = '54000';
                END IF; RETURN new; END $$"""
            )
            connection.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON definable_event FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        outcomes: dict[str, object] = {}

        async def publish(what: str) -> None:
            try:
                outcomes[what] = await bus.publish("job", {"what": what})
            except StorageError as error:
                outcomes[what] = error

        async with anyio.create_task_group() as group:
            for what in ("a", "poison", "b"):
                group.start_soon(publish, what)
        assert outcomes["a"] is outcomes["b"] is True
        assert isinstance(outcomes["poison"], StorageError)
        assert {each.data["what"] for each in await take(deliveries, 2)} == {"a", "b"}


# --- where it is, and what is there


async def test_tables_of_a_later_version_are_refused(postgres: str) -> None:
    async with PostgresBus(postgres).open():
        pass
    asked(postgres, "UPDATE definable_schema SET version = 1000 RETURNING version")
    with pytest.raises(StorageError, match="of a later version of definable"):
        async with PostgresBus(postgres).open():
            pass


async def test_many_processes_may_make_the_tables_at_once(postgres: str) -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        async with PostgresBus(postgres).open():
            yield

    async def open_one() -> None:
        async with opened():
            pass

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(open_one)


@pytest.mark.parametrize("dsn", ["postgresql://user:secret@[::1", "host=localhost secret"])
def test_what_is_no_dsn_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="a PostgreSQL DSN is") as refused:
        PostgresBus(dsn)
    assert "secret" not in str(refused.value)


async def test_who_is_not_there_is_named_without_its_password() -> None:
    bus = PostgresBus("postgresql://user:secret@127.0.0.1:1/app", timeout=2)
    assert repr(bus) == "PostgresBus('127.0.0.1:1/app')"
    with pytest.raises(StorageError, match=r"PostgreSQL at 127\.0\.0\.1:1/app: ") as refused:
        async with bus.open():
            pass
    assert "secret" not in str(refused.value)


async def test_of_two_that_begin_a_session_at_once_one_is_told(postgres: str) -> None:
    first, second = PostgresSessionStore(postgres), PostgresSessionStore(postgres)
    agents = [Agent("offline", sessions=store) for store in (first, second)]
    async with anyio.create_task_group() as group:
        for agent in agents:
            group.start_soon(lambda agent=agent: agent.arun("hello", session_id="s"))
    session = await first.load("s")
    assert session is not None and len(session.messages) == 4
    with pytest.raises(SessionConflict):
        await second.save(type(session)("s", version="another"))


async def test_behind_a_pooler_each_event_is_handled_once_and_nothing_is_prepared(pooled_postgres: str) -> None:
    """Each transaction may be another server process's: a statement that was prepared is not there, or another one."""
    handled: list[int] = []

    def replica() -> Agent:
        agent = Agent("offline", bus=PostgresBus(pooled_postgres), sessions=PostgresSessionStore(pooled_postgres))
        agent.on(EventTrigger("job"))(handle)
        return agent

    async def handle(event: TriggerEvent) -> None:
        handled.append(event.body["n"])

    one, other = replica(), replica()
    with anyio.fail_after(LIMIT):
        async with one.running(enable_server=False) as first, other.running(enable_server=False) as second:
            for n in range(50):
                await (one, other)[n % 2].aemit("job", {"n": n})
                await (one, other)[n % 2].arun("hello", session_id="shared")
            await eventually(lambda: len(handled) >= 50)
    assert sorted(handled) == list(range(50))
    assert all(runtime.report is not None and runtime.report.clean for runtime in (first, second))
