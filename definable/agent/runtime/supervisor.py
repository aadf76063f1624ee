"""One interface: run it, answer its messages, start it again with backoff when it crashes.

The runtime starts a `Supervisor` for each interface that it serves; `/health` shows their states.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Literal, cast

import anyio

from definable.agent.agent import Agent
from definable.agent.auth.base import RefusalLog
from definable.agent.bus.base import EventBus
from definable.agent.bus.memory import DEFAULT_BUFFER
from definable.agent.interface.base import BaseInterface
from definable.agent.interface.errors import InterfaceAuthenticationError
from definable.agent.interface.message import InterfaceMessage, MessageEnd
from definable.agent.interface.pipeline import AgentHandle, Pipeline
from definable.agent.interface.streamed_reply import run_with_background
from definable.agent.parts import DEFAULT_NAME
from definable.agent.run.context import RunRequest
from definable.agent.run.output import Listener, RunOutput
from definable.agent.tools.mcp_connection import MCPConnection
from definable.agent.work import WorkTracker
from definable.concurrency.backoff import Backoff
from definable.concurrency.call import contained
from definable.concurrency.event_loop import plain_errors
from definable.concurrency.isolation import contain_errors, error_message, error_text
from definable.concurrency.logs import logger_named
from definable.errors import DefinableError

from .message_ingress import MessageIngress
from .message_queue import MessageQueue
from .runs import RunRegistry
from .shutdown import FiringCount

logger: logging.Logger = logger_named(__name__)

OTHER_CHILDREN = frozenset({"http", "event", "events", "cron"})
"""What else is in reports and in `/health`."""

TAKEN_AFTER = 10.0
"""Seconds of running after which a platform has taken the token."""

MAX_REFUSALS = 8
"""Times in a row that a platform may refuse a token that it took before, over some three minutes: the trouble may be
its own. A token that was never taken is not tried again."""

STUCK_AFTER = 300.0
"""Seconds after which an answer that may take any time is called stuck."""

STUCK_GRACE = 30.0
"""Seconds that the end of an answer may take: what is sent then is sent whole."""


class InterfaceState(StrEnum):
    """Where an interface stands."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    """It crashed and waits for its next try."""
    STALLED = "stalled"
    """It runs, and has not heard of its platform for too long."""
    ENDED = "ended"
    """It returned: there is nothing more to come."""
    FAILED = "failed"
    """A fatal error: it will not be tried again."""
    STOPPED = "stopped"


class Supervisor:
    """Keeps one interface alive.

    Args:
        interface: What to run.
        agent: The agent behind it.
        bus: Where accepted messages wait.
        tracker: Counts the messages, under the supervisor's name.
        name: The interface's, where another one that is served has the same.
        max_waiting: How many messages may wait to be answered; beyond it the interface waits with the next.
        backoff: How long to wait after a crash.
    """

    def __init__(
        self,
        interface: BaseInterface,
        agent: AgentHandle,
        bus: EventBus,
        tracker: WorkTracker,
        *,
        name: str | None = None,
        max_waiting: int = DEFAULT_BUFFER,
        backoff: Backoff | None = None,
    ) -> None:
        self.interface = interface
        self.name: str = name or interface.name
        """In reports, logs, `/health` and on the bus."""
        self.message_queue: MessageQueue = MessageQueue(
            self.name,
            bus,
            tracker,
            answer=self._answer,
            is_safe=self._tell_handled,
            has_ended=self._tell_ended,
            limit=max_waiting,
            config=interface.config,
        )
        self.error: str | None = None
        """Why it failed or restarts."""
        self.down_since: float | None = None
        """When it first crashed, in seconds of the event loop's clock; None once it has run for a while since."""
        self._state = InterfaceState.STARTING
        self._has_run = False
        """Whether it has run for a while since the start."""
        self._first_began = self._began = 0.0
        """When it began to receive, at first and last, in seconds of the event loop's clock."""
        self._pipeline = Pipeline(interface, agent)
        interface.history = self._pipeline.history
        self._ingress = MessageIngress(
            self.name,
            interface,
            self._pipeline,
            self.message_queue,
            tracker,
            is_safe=self._tell_handled,
            has_ended=self._tell_ended,
        )
        self._tracker = tracker
        self._backoff = Backoff() if backoff is None else backoff
        self._isolation = contain_errors(f"interface {self.name}")
        self._receiving: anyio.CancelScope | None = None
        self._stopped = False
        self._released = anyio.Event()
        self.received: anyio.Event = anyio.Event()
        """Set when nothing is received any more."""
        self.ended: anyio.Event = anyio.Event()
        """Set when the interface has let go of everything."""

    async def run(self) -> None:
        """Run the interface until it ends, fails for good or is stopped; have messages answered until released."""
        self._tracker.counters(self.name)  # in the report also when no message comes
        try:
            with self._isolation:
                await self._live()
                if not self._released.is_set():  # anyio on asyncio: a task of its group ended by a native cancellation
                    raise RuntimeError("its tasks were cancelled from outside")
        except Exception as error:
            self._fail(error)
        self.received.set()
        await self.message_queue.close()
        self.ended.set()

    async def _live(self) -> None:
        async with self.interface.opened(), anyio.create_task_group() as answers:
            self._ingress.open(answers)
            await self.message_queue.open(answers)
            try:
                await self._receive_until_stopped()
                self.received.set()
                await self._released.wait()
            finally:
                await self.message_queue.close()  # before the group, which takes no more tasks then

    def stop_receiving(self) -> None:
        """Take no more messages; those accepted are answered still."""
        self._stopped = True
        self.message_queue.flush()
        if self._receiving is not None:
            self._receiving.cancel()

    def release(self) -> None:
        """Let the interface go, once it receives no more and what it has in hand is answered."""
        self._released.set()

    @property
    def state(self) -> InterfaceState:
        """Where the interface stands now."""
        if self._state is InterfaceState.RUNNING and self._is_stalled:
            return InterfaceState.STALLED
        return self._state

    @property
    def is_well(self) -> bool:
        """Whether it runs, has ended as it should, or is down no longer than its backoff explains."""
        if self.state in (InterfaceState.FAILED, InterfaceState.STALLED):
            return False
        if self.stuck_chats >= self.interface.config.max_concurrent_requests:  # no other chat is answered
            return False
        if self.state is not InterfaceState.RESTARTING or self.down_since is None:
            return True
        return anyio.current_time() - self.down_since <= 2 * self._backoff.maximum

    @property
    def stuck_chats(self) -> int:
        """Chats whose answer takes longer than it may."""
        seconds = self.interface.config.answer_timeout or STUCK_AFTER
        return self.message_queue.stuck_chats(seconds + STUCK_GRACE)

    @property
    def _is_stalled(self) -> bool:
        limit, alive = self.interface.max_silence, self.interface.last_alive
        return limit is not None and anyio.current_time() - max(self._first_began, alive or 0.0) > limit

    @property
    def _was_up(self) -> bool:
        """Whether the platform has taken the token since the start: it speaks before it looks at one."""
        return self._has_run or self._ingress.has_accepted

    @property
    def _ran_for(self) -> float:
        """Seconds since it was started last; one that waits for the first word of its platform does not run yet."""
        alive = self.interface.last_alive
        was_heard_of = self.interface.max_silence is None or (alive is not None and alive >= self._began)
        return anyio.current_time() - self._began if was_heard_of else 0.0

    async def _receive_until_stopped(self) -> None:
        try:
            with anyio.CancelScope() as self._receiving:
                if not self._stopped:
                    await run_with_background(self._keep_receiving, self._ingress.show_menu)
        except Exception:
            logger.exception("interface %s did not stop cleanly", self.name)
        if self._state not in (InterfaceState.ENDED, InterfaceState.FAILED):
            self._state = InterfaceState.STOPPED

    async def _keep_receiving(self) -> None:
        failures = refusals = 0
        self._first_began = anyio.current_time()
        while True:
            self._state, self._began = InterfaceState.RUNNING, anyio.current_time()
            try:
                with self._isolation, plain_errors():
                    await contained(f"receive() of {self.name}", self.interface.receive, self._ingress.accept)
            except Exception as error:
                self._has_run = self._has_run or self._ran_for >= TAKEN_AFTER
                failures = self._backoff.failures_after(failures, self._ran_for)
                refusals = 0 if not is_fatal(error) else 1 if failures == 1 else refusals + 1
                if refusals and (refusals > MAX_REFUSALS or not self._was_up):
                    self._fail(error)
                    return
                if failures == 1:
                    self.down_since = anyio.current_time()
                await self._wait_after(error, failures)
            else:
                self._state = InterfaceState.ENDED
                logger.info("interface %s has ended", self.name)
                return

    async def _wait_after(self, error: Exception, failures: int) -> None:
        delay, reason = self._backoff.delay(failures), error_text(error)
        is_known, self.error, self._state = reason == self.error and failures > 1, reason, InterfaceState.RESTARTING
        logger.log(
            logging.DEBUG if is_known else logging.ERROR,  # once, not at every try
            "interface %s is down, %s; again in %.1f s, and so on up to every %g s",
            self.name,
            reason,
            delay,
            self._backoff.maximum,
            exc_info=None if isinstance(error, DefinableError) else error,
        )
        await anyio.sleep(delay)

    def _fail(self, error: Exception) -> None:
        is_ours = isinstance(error, DefinableError)  # its message says it all
        self._state, self.error = InterfaceState.FAILED, error_message(error) if is_ours else error_text(error)
        surprise = None if is_ours else error
        logger.error("interface %s has failed for good: %s", self.name, self.error, exc_info=surprise)

    async def _answer(self, message: InterfaceMessage) -> MessageEnd:
        await self._ingress.renewed(message)
        try:
            with self._isolation:
                return await contained(self.name, self._pipeline.answer, message)
        except Exception:
            logger.exception("%s: message %s was not answered", self.name, message.platform_message_id)
            return MessageEnd.FAILED

    def _tell_ended(self, message: InterfaceMessage) -> None:
        self._tell("answer_ended", message)

    def _tell_handled(self, message: InterfaceMessage) -> None:
        self._tell("handled", message)

    def _tell(self, method: Literal["handled", "answer_ended"], message: InterfaceMessage) -> None:
        try:
            with self._isolation:
                getattr(self.interface, method)(message)
        except Exception:
            logger.exception("%s.%s() failed", type(self.interface).__name__, method)


def supervised(
    interfaces: Sequence[BaseInterface],
    agent: Agent,
    registry: RunRegistry,
    bus: EventBus,
    tracker: WorkTracker,
    max_waiting: int,
    refusals: RefusalLog | None = None,
) -> list[Supervisor]:
    """A supervisor for each interface; those that have one name are numbered in their order.

    Args:
        interfaces: What is served.
        agent: Answers where an interface has no agent of its own.
        registry: Makes the runs.
        bus: Where accepted messages wait.
        tracker: Counts the messages.
        max_waiting: How many messages of one interface may wait.
        refusals: Where it is noted who is not let in.
    """
    supervisors: dict[str, Supervisor] = {}
    for interface in interfaces:
        name = unused(interface.name, {*OTHER_CHILDREN, *supervisors})
        handle = handle_for(interface, agent, registry, None if name == interface.name else name, refusals)
        supervisors[name] = Supervisor(interface, handle, bus, tracker, name=name, max_waiting=max_waiting)
    return list(supervisors.values())


def unused(name: str, taken: Container[str]) -> str:
    """The name, with a number when it is taken: two bots of one platform are two children."""
    candidates = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def handle_for(
    interface: BaseInterface,
    agent: Agent,
    registry: RunRegistry,
    name: str | None = None,
    refusals: RefusalLog | None = None,
) -> AgentHandle:
    """The agent that answers an interface: its own, or the one that is served."""
    answering = interface.agent or agent
    runner = answering.runner

    async def run(request: RunRequest, listener: Listener | None = None) -> RunOutput:
        # A chat waits for a place; a message that holds its session's turn holds one already.
        has_place = request.turn is not None
        return await registry.run(request, interface.name, listener, runner=runner, wait=True, has_place=has_place)

    return AgentHandle(
        run,
        can_stream=runner.output_type is None,
        sessions=runner.sessions,
        place=registry.place,
        auth=lambda: answering.auth,
        refusals=RefusalLog() if refusals is None else refusals,
        name=name if answering.name == DEFAULT_NAME else f"{answering.name}/{name or ''}",
    )


def is_fatal(error: Exception) -> bool:
    """Whether the platform refuses the token."""
    if isinstance(error, ExceptionGroup):
        return cast("ExceptionGroup[Exception]", error).subgroup(InterfaceAuthenticationError) is not None
    return isinstance(error, InterfaceAuthenticationError)


def health_of(
    name: str,
    draining: bool,
    supervisors: Iterable[Supervisor],
    storage: Iterable[tuple[str, object]] = (),
    *,
    firings: FiringCount | None,
    connections: Iterable[MCPConnection] = (),
) -> tuple[bool, dict[str, Any]]:
    """Whether all is well, and the document of `/health`: truthful about every child, silent about secrets.

    Args:
        name: The service's name.
        draining: Whether a stop has begun.
        supervisors: Of the interfaces.
        storage: What keeps things, by name; a part may say by an attribute `failure` that it cannot.
        firings: What became of cron firings; None where there are no jobs.
        connections: Those to MCP servers.
    """
    children: dict[str, dict[str, Any]] = {"events": {"state": "draining" if draining else "running"}}
    if firings is not None:
        children["cron"] = {"state": "stopped" if draining else "running", **asdict(firings)}
    well = True
    for supervisor in supervisors:
        well = well and supervisor.is_well
        children[supervisor.name] = {"state": supervisor.state.value}
        if stuck := supervisor.stuck_chats:
            children[supervisor.name]["stuck_chats"] = stuck
    for connection in connections:
        well = well and connection.is_well
        children[unused(connection.server.name, children)] = {"state": connection.state}
    for part_name, part in storage:
        if getattr(part, "failure", None) is not None:
            well = False
            children[part_name] = {"state": "failing"}
    status = "draining" if draining else "ok" if well else "degraded"
    return status == "ok", {"status": status, "agent": name, "children": children}
