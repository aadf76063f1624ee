"""One interface: run it, answer its messages, start it again with backoff when it crashes."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import cast

import anyio

from definable.agent.interface.base import BaseInterface
from definable.agent.interface.errors import InterfaceAuthenticationError, InterfaceError
from definable.agent.interface.host import InterfaceHost, StartRun
from definable.agent.interface.inbox import Inbox
from definable.agent.interface.message import InterfaceMessage
from definable.errors import DefinableError

from .backoff import Backoff
from .isolation import Isolation
from .ledger import WorkLedger
from .plain_errors import plain_errors

logger = logging.getLogger(__name__)

STABLE_AFTER = 60.0
"""Seconds of running after which a crash counts as the first again."""


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
        host: The agent behind it; a function that makes its runs is a host that can do no more.
        ledger: Counts the messages, under the interface's name.
        backoff: How long to wait after a crash.
    """

    def __init__(
        self,
        interface: BaseInterface,
        host: InterfaceHost | StartRun,
        ledger: WorkLedger,
        backoff: Backoff | None = None,
    ) -> None:
        self.interface = interface
        self.error: str | None = None
        """Why it failed or restarts."""
        self.down_since: float | None = None
        """When it first crashed, in seconds of the event loop's clock; None once it has run for a while since."""
        self._state = InterfaceState.STARTING
        self._began = 0.0
        """When it began to receive, in seconds of the event loop's clock."""
        self._host = host if isinstance(host, InterfaceHost) else InterfaceHost(host)
        self._ledger = ledger
        self._backoff = Backoff() if backoff is None else backoff
        self._receiving: anyio.CancelScope | None = None
        self._stopped = False
        self._inbox: Inbox | None = None
        self.ended = anyio.Event()
        """Set when nothing is received any more, every accepted message is answered and the interface has let go."""

    async def run(self) -> None:
        """Run the interface until it ends, fails for good or is stopped, and answer all that it accepted."""
        self._ledger.account(self.interface.name)  # in the report also when no message comes
        try:
            async with self.interface.opened(), anyio.create_task_group() as answers:
                self._inbox = Inbox(self._answer, self.interface.config.max_concurrent_requests, answers)
                await self._receive_until_stopped(self._inbox)
        except Exception as error:
            self._fail(error)
        self.ended.set()

    def stop_receiving(self) -> None:
        """Take no more messages; those accepted are answered still."""
        self._stopped = True
        if self._receiving is not None:
            self._receiving.cancel()

    def close_account(self) -> None:
        """Count the accepted messages that nobody began to answer, after `run` has ended."""
        if self._inbox is not None:
            self._ledger.never_started(self.interface.name, self._inbox.waiting())

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
        if self.state is not InterfaceState.RESTARTING or self.down_since is None:
            return True
        return anyio.current_time() - self.down_since <= 2 * self._backoff.maximum

    @property
    def _is_stalled(self) -> bool:
        limit, alive = self.interface.max_silence, self.interface.last_alive
        return limit is not None and anyio.current_time() - max(self._began, alive or 0.0) > limit

    async def _receive_until_stopped(self, inbox: Inbox) -> None:
        try:
            with anyio.CancelScope() as self._receiving:
                if not self._stopped:
                    await self._keep_receiving(inbox)
        except Exception:
            logger.exception("interface %s did not stop cleanly", self.interface.name)
        if self._state not in (InterfaceState.ENDED, InterfaceState.FAILED):
            self._state = InterfaceState.STOPPED

    async def _keep_receiving(self, inbox: Inbox) -> None:
        failures = 0
        while True:
            self._state, self._began = InterfaceState.RUNNING, anyio.current_time()
            try:
                with Isolation(f"interface {self.interface.name}"), plain_errors():
                    await self.interface.receive(inbox.accept)
            except Exception as error:
                if is_fatal(error):
                    self._fail(error)
                    return
                if anyio.current_time() - self._began >= STABLE_AFTER:
                    failures, self.down_since = 0, None
                failures += 1
                if self.down_since is None:
                    self.down_since = anyio.current_time()
                await self._wait_after(error, failures)
            else:
                self._state = InterfaceState.ENDED
                logger.info("interface %s has ended", self.interface.name)
                return

    async def _wait_after(self, error: Exception, failures: int) -> None:
        delay, reason = self._backoff.delay(failures), f"{type(error).__name__}: {error}"
        is_known, self.error, self._state = reason == self.error and failures > 1, reason, InterfaceState.RESTARTING
        logger.log(
            logging.DEBUG if is_known else logging.ERROR,  # once, not at every try
            "interface %s is down, %s; again in %.1f s, and so on up to every %g s",
            self.interface.name,
            reason,
            delay,
            self._backoff.maximum,
            exc_info=None if isinstance(error, InterfaceError) else error,
        )
        await anyio.sleep(delay)

    def _fail(self, error: Exception) -> None:
        self._state, self.error = InterfaceState.FAILED, str(error)
        surprise = None if isinstance(error, DefinableError) else error
        logger.error("interface %s has failed for good: %s", self.interface.name, error, exc_info=surprise)

    async def _answer(self, message: InterfaceMessage) -> None:
        name = self.interface.name
        with self._ledger.work(name) as work:
            try:
                with Isolation(f"interface {name}"):
                    work.failed = not await self.interface.answer(message, self._host)
            except Exception:
                work.failed = True
                logger.exception("%s: message %s was not answered", name, message.platform_message_id)
            self._tell_handled(message)

    def _tell_handled(self, message: InterfaceMessage) -> None:
        try:
            self.interface.handled(message)
        except Exception:
            logger.exception("%s.handled() failed", type(self.interface).__name__)


def is_fatal(error: Exception) -> bool:
    """Whether trying again is of no use: the platform refuses the token."""
    if isinstance(error, ExceptionGroup):
        return cast("ExceptionGroup[Exception]", error).subgroup(InterfaceAuthenticationError) is not None
    return isinstance(error, InterfaceAuthenticationError)
