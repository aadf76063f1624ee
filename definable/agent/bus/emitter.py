"""Where `agent.emit` enters: from any thread, before serving, while serving, and refused after it.

The runtime connects the emitter to the open bus when it starts and disconnects it when it stops; `_forward` is a child
of its task group. Which triggers an event is for is decided by the `route` that the runtime hands in.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias, cast

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

from definable.agent.work import AcceptedWork, is_in_work_of, work_on_worker
from definable.concurrency.clock import current_clock
from definable.concurrency.event_loop import EventLoopHandle
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, EventBufferFull, EventBusClosed, EventBusError, StorageError

from .base import EventBus, PublishesMany, Submission
from .queue import DEFAULT_BUFFER

logger: logging.Logger = logger_named(__name__)

RETRY_PAUSE = 1.0
"""Seconds until an event is offered again to a bus whose storage failed."""

Publication: TypeAlias = tuple[str, Mapping[str, Any]] | Submission
"""What the bus is given: the name of whom it is for, and the data; a submission for what waits for its time, or behind
others of its group."""

LATER_KEY = "later event"
"""The name of events that wait for their time, or come from another process: which triggers they are for is found out
when they are handled."""


@dataclass(frozen=True, slots=True)
class When:
    """When an event is to be handled."""

    at: float
    """Unix seconds."""
    key: str | None = None
    """What `cancel` knows it by while it waits; it replaces one that waits under the same key."""

    @classmethod
    def of(cls, delay: float | None, at: datetime | float | None, key: str | None) -> When | None:
        """The time that a caller means; None for at once.

        Raises:
            ConfigurationError: It is no time, or two.
        """
        if delay is None and at is None and key is None:
            return None
        now = current_clock().now()
        if delay is not None and at is not None:
            raise ConfigurationError("an event has a delay, or a time `at` which it is handled, not both")
        if isinstance(at, datetime):
            if at.tzinfo is None:
                raise ConfigurationError(f"at={at!r}: with a time zone, such as datetime.now(UTC) + timedelta(hours=1)")
            at = at.timestamp()
        moment = now + (delay or 0.0) if at is None else at
        if not math.isfinite(moment) or (delay is not None and delay < 0):
            raise ConfigurationError(f"delay={delay!r}, at={at!r}: seconds from now, or Unix seconds, and finite")
        return cls(moment, key)


Route: TypeAlias = Callable[[str, Any], Sequence[Publication]]
"""From an event's name and body to one publication for every trigger that it is for; called from any thread. Raises
`ConfigurationError` where a trigger cannot tell the event's key."""


class _Connection:
    """The open bus, and the loop that it is open in."""

    def __init__(self, bus: EventBus, route: Route, workers: int, owner: object) -> None:
        self.bus = bus
        self.route = route
        self.workers = workers
        self.owner = owner
        """Whose accepted work may emit while a stop drains."""
        self.loop = EventLoopHandle()
        self.wake = anyio.Event()
        """Set when the forwarder has something to do."""
        self.idle = anyio.Event()
        """Set when the forwarder has nothing left to do."""


class Emitter:
    """Accepts events, bounded and thread-safe, without ever blocking a caller of `emit`.

    Args:
        bus: The bus that serving will open, where it is known: it says of events from before serving what it cannot
            carry.
    """

    def __init__(self, bus: EventBus | None = None) -> None:
        self._bus = bus
        self._lock = threading.RLock()  # reentrant: a signal handler may emit while its thread emits
        self._connection: _Connection | None = None
        self._refusal: str | None = None
        """Why events from outside of accepted work are refused; None while they are accepted."""
        self._ended = False
        self._pre_start: list[tuple[str, Any, When | None]] = []
        """Events from before serving."""
        self._warns_at_exit = False
        self._queued: deque[Publication] = deque()
        """What the forwarder has to bring to the bus: from before serving, and from other threads."""
        self._lost: list[Publication] = []
        """What the bus did not take from the forwarder."""
        self._blocked = 0
        """Workers that wait behind a trigger's limit."""
        self._blocked_calls: dict[AcceptedWork, int] = {}
        """How many calls wait for room on the bus, by the work that they were made in and that occupies a worker."""

    def expect(self, bus: EventBus | None) -> None:
        """Serving will open another bus.

        Raises:
            ConfigurationError: An event from before cannot be carried by it.
        """
        with self._lock:
            if bus is not None:
                for name, body, _ in self._pre_start:
                    bus.check(f"event({name})", {"body": body})
            self._bus = bus

    def emit(self, name: str, data: Any = None, when: When | None = None) -> None:
        """Accept an event or raise at once; see `Agent.emit`."""
        body = event_body(name, data)
        with self._lock:
            connection = self._check_open()
            if connection is None:
                self._keep_until_serving(name, body, when)
                return
            publications = _publications(connection, name, body, when)
            if not publications:
                return
            if self._queued or not connection.loop.is_current_thread:
                self._check_capacity(name, len(self._queued) + len(publications), connection)
                for publication in publications:
                    connection.bus.check(publication[0], publication[1])
                self._enqueue(publications, connection)
                return
        if len(publications) > 1:
            self._check_capacity(name, len(publications), connection)
        for publication in publications:
            _publish_nowait(connection.bus, publication)

    async def aemit(self, name: str, data: Any = None, when: When | None = None) -> None:
        """Accept an event, waiting for room; see `Agent.aemit`."""
        body = event_body(name, data)
        with self._lock:
            connection = self._check_open()
            if connection is None and self._bus is not None and self._bus.durable:
                raise EventBusClosed(
                    f"aemit({name!r}) before serving: {self._bus!r} is not open, and cannot keep the event yet; `emit` "
                    "buffers it until serving begins"
                )
            if connection is None:
                self._keep_until_serving(name, body, when)
        if connection is None:
            await cancel_shielded_checkpoint()  # accepted is accepted: no cancellation may say otherwise
            return
        if not connection.loop.is_current_thread:
            raise EventBusError("aemit() belongs to the event loop that serves: call emit() in other threads")
        publications = _publications(connection, name, body, when)
        if when is not None:
            await keeping_later(connection.bus).publish_many(_submissions(publications))
            return
        if len(publications) > 1 and _takes_many(type(connection.bus)) and not self._is_on_worker(connection):
            await keeping_later(connection.bus).publish_many(_submissions(publications))
            return
        for publication in publications:
            await self._publish(publication, connection)

    async def aemit_once(self, name: str, body: Any, id: str) -> None:
        """Accept an event, waiting for room; on a durable bus once for each trigger, also when it is called again.

        Args:
            name: The event's name.
            body: Its body, as `event_body` makes it.
            id: Of what the event came from, which a process that dies leaves to be handled again.

        Raises:
            EventBusClosed: The bus is not open.
            StorageError: What keeps the work failed; nothing was accepted.
        """
        connection = self._connection
        if connection is None or not connection.bus.durable:
            await self.aemit(name, body)
            return
        submissions = _submissions(connection.route(name, body))
        await keeping_later(connection.bus).publish_many(
            [each._replace(dedupe_key=f"later {id} {each.name}") for each in submissions]
        )

    async def cancel(self, key: str) -> bool:
        """Withdraw the event that waits under this key; see `Agent.cancel`."""
        with self._lock:
            connection = self._connection
            early = [event for event in self._pre_start if event[2] is None or event[2].key != key]
            was_pre_start = len(early) < len(self._pre_start)
            self._pre_start = early
        if connection is None:
            await cancel_shielded_checkpoint()
            return was_pre_start
        return await keeping_later(connection.bus).cancel(key) or was_pre_start

    async def publish(self, key: str, payload: Mapping[str, Any]) -> None:
        """Accept work for one trigger, waiting for room; also on a worker, which never waits for itself.

        Raises:
            EventBusClosed: The bus is not open.
        """
        connection = self._connection
        if connection is None:
            raise EventBusClosed("the event bus is not open: it works while the agent serves")
        await self._publish((key, payload), connection)

    @contextmanager
    def blocked_worker(self) -> Generator[bool, None, None]:
        """Hold while a worker waits for others to make room; yields True to the last one, which must not wait."""
        self._blocked += 1
        try:
            yield self._is_no_worker_left()
        finally:
            self._blocked -= 1

    @contextmanager
    def _blocked_call(self, work: AcceptedWork) -> Generator[bool, None, None]:
        """Hold while a call waits for room that was made in what a worker handles; yields as `blocked_worker`."""
        self._blocked_calls[work] = self._blocked_calls.get(work, 0) + 1
        try:
            yield self._is_no_worker_left()
        finally:
            calls = self._blocked_calls.pop(work, 0) - 1
            if calls > 0:
                self._blocked_calls[work] = calls

    def _is_no_worker_left(self) -> bool:
        """Whether every worker waits for others; calls of one handler are one worker, those it left behind are none."""
        for work in [work for work in self._blocked_calls if not work.is_open]:
            del self._blocked_calls[work]
        blocked = self._blocked + len(self._blocked_calls)
        return self._connection is not None and blocked >= self._connection.workers

    @asynccontextmanager
    async def connected(
        self, bus: EventBus, route: Route, *, workers: int, owner: object = None
    ) -> AsyncGenerator[None, None]:
        """Bring events to the open bus while the context is open; afterwards they are refused.

        Those from before wait for `begin`: a start that fails on its way leaves them to the next one.

        Args:
            bus: The open bus.
            route: For whom an event is.
            workers: How many deliveries are handled at once.
            owner: The owner of the accepted work that may still emit once events are refused.
        """
        connection = _Connection(bus, route, workers, owner)
        with self._lock:
            self._connection, self._refusal, self._ended = connection, None, False
            early, self._pre_start = self._pre_start, []
            for name, body, when in early:
                try:
                    self._queued.extend(_publications(connection, name, body, when))
                except ConfigurationError:
                    logger.exception("the event %r from before serving is lost", name)
                    self._lost.append((LATER_KEY, {"body": body}))
        try:
            async with anyio.create_task_group() as forwarder:
                forwarder.start_soon(self._forward, connection)
                try:
                    yield
                finally:
                    forwarder.cancel_scope.cancel()
        finally:
            with self._lock:
                self._connection, self._ended = None, True

    def begin(self) -> None:
        """Bring the events from before serving to the bus: serving has begun."""
        with self._lock:
            if self._queued and self._connection is not None:
                self._connection.wake.set()

    def refuse(self, reason: str) -> None:
        """Refuse events from outside of accepted work from now on."""
        with self._lock:
            self._refusal = reason

    @property
    def is_flushed(self) -> bool:
        """Whether no accepted event is on its way to the bus."""
        return not self._queued

    async def flushed(self) -> None:
        """Return once no accepted event is on its way to the bus."""
        while (connection := self._connection) is not None and self._queued:
            if connection.idle.is_set():
                connection.idle = anyio.Event()
            await connection.idle.wait()

    def take_undone(self) -> Sequence[Publication]:
        """Take out what never came to the bus, for the last account; from now on every event is refused."""
        with self._lock:
            self._ended = True
            left = [*self._lost, *self._queued]
            self._lost.clear()
            self._queued.clear()
        return left

    def _is_on_worker(self, connection: _Connection) -> bool:
        """Whether a call made here must not wait for a worker to make room: it may be the last one."""
        return not connection.bus.durable and work_on_worker(connection.owner) is not None

    async def _publish(self, publication: Publication, connection: _Connection) -> None:
        bus = connection.bus
        work = None if bus.durable else work_on_worker(connection.owner)
        if work is None or bus.capacity == math.inf:
            await _publish(bus, publication)
            return
        with self._blocked_call(work) as last:
            if not last:
                await _publish(bus, publication)
                return
            try:  # nobody is left to make room: waiting for it would be for ever
                _publish_nowait(bus, publication)
            except EventBufferFull:
                with self._lock:
                    self._enqueue([publication], connection)
            await cancel_shielded_checkpoint()  # accepted is accepted: no cancellation may say otherwise

    async def _forward(self, connection: _Connection) -> None:
        while True:
            await connection.wake.wait()
            connection.wake = anyio.Event()
            while self._queued:
                await self._forward_one(self._queued[0], connection)
            connection.idle.set()

    async def _forward_one(self, publication: Publication, connection: _Connection) -> None:
        try:
            await _publish(connection.bus, publication)
        except StorageError as error:
            logger.warning("an event for %s waits, the bus does not take it: %s", publication[0], error)
            await anyio.sleep(RETRY_PAUSE)
            return
        except Exception:
            if not self._ended:  # else it is in the last account already
                logger.exception("an event for %s is lost: the bus did not take it", publication[0])
                self._lost.append(publication)
        with self._lock:  # `_enqueue` counts on it that a line with something in it is looked at again
            if self._queued:
                self._queued.popleft()

    def _check_open(self) -> _Connection | None:
        """The connection, None before serving; raises when events are refused."""
        if self._ended:
            raise EventBusClosed("the agent has stopped serving: the event was not accepted")
        connection = self._connection
        if self._refusal is not None and not (connection is not None and is_in_work_of(connection.owner)):
            raise EventBusClosed(f"{self._refusal}: the event was not accepted")
        return connection

    def _keep_until_serving(self, name: str, body: Any, when: When | None) -> None:
        if len(self._pre_start) >= DEFAULT_BUFFER:
            raise buffer_full(name)
        if self._bus is not None:
            self._bus.check(f"event({name})", {"body": body})
        if when is not None and when.key is not None:
            self._pre_start = [event for event in self._pre_start if event[2] is None or event[2].key != when.key]
        if not self._warns_at_exit:
            self._warns_at_exit = True
            atexit.register(_warn_of_lost, weakref.ref(self))
        self._pre_start.append((name, body, when))

    def warn_of_lost(self) -> None:
        """Say that the process ends, and events that waited for serving to begin end with it."""
        if self._pre_start:
            logger.warning(
                "%d events are lost, of which the first is %r: emit() kept them until serving begins, and this process "
                "ends without serving; `definable emit` publishes to the service that has a durable bus",
                len(self._pre_start),
                self._pre_start[0][0],
            )

    def _check_capacity(self, name: str, needed: int, connection: _Connection) -> None:
        if needed > connection.bus.capacity:
            raise buffer_full(name)

    def _enqueue(self, publications: Sequence[Publication], connection: _Connection) -> None:
        is_forwarding = bool(self._queued)
        self._queued.extend(publications)
        if self._queued and not is_forwarding:
            connection.loop.call_soon(_wake, connection)


def event_body(name: str, data: Any) -> Any:
    """An event's body: a copy of a dict, None as None, other data under the key `data`.

    Raises:
        ConfigurationError: The name is no event name.
    """
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"emit({name!r}, ...): an event's name is a string that is not empty")
    if data is None:
        return None
    return dict(cast("dict[str, Any]", data)) if isinstance(data, dict) else {"data": data}


def buffer_full(name: str) -> EventBufferFull:
    """The error for an event that found no room."""
    return EventBufferFull(
        f"no room for the event {name!r}: try later, wait with `await agent.aemit(...)`, or raise event_buffer"
    )


def _warn_of_lost(emitter: weakref.ref[Emitter]) -> None:
    if (left := emitter()) is not None:
        left.warn_of_lost()


def _wake(connection: _Connection) -> None:
    connection.wake.set()


def _publications(connection: _Connection, name: str, body: Any, when: When | None) -> Sequence[Publication]:
    return connection.route(name, body) if when is None else [unrouted(name, body, when)]


def unrouted(name: str, body: Any, when: When | None) -> Submission:
    """An event of which the process that handles it finds out, then, for which triggers it is."""
    now = current_clock().now()
    data = {"body": {"event": name, "data": body}, "source": f"event({name})", "timestamp": now}
    if when is None:
        return Submission(LATER_KEY, data)
    return Submission(LATER_KEY, data, delay=max(when.at - now, 0.0), key=when.key)


def _submissions(publications: Sequence[Publication]) -> Sequence[Submission]:
    return [each if isinstance(each, Submission) else Submission(*each) for each in publications]


async def _publish(bus: EventBus, publication: Publication) -> None:
    if isinstance(publication, Submission):
        await keeping_later(bus).publish_many([publication])
    else:
        await bus.publish(*publication)


def _publish_nowait(bus: EventBus, publication: Publication) -> None:
    if isinstance(publication, Submission):
        keeping_later(bus).submit_nowait([publication])
    else:
        bus.publish_nowait(*publication)


def keeping_later(bus: EventBus) -> PublishesMany:
    """The bus, if it keeps events until their time, and in the order of a key.

    Raises:
        ConfigurationError: It does not.
    """
    if not _takes_many(type(bus)):
        raise ConfigurationError(
            f"{bus!r} keeps no events for later, nor in the order of a key: it lacks `publish_many`, `submit_nowait`, "
            "`cancel`"
        )
    return cast("PublishesMany", bus)


@cache
def _takes_many(bus: type[EventBus]) -> bool:
    return issubclass(bus, PublishesMany)  # which takes as long as publishing
