"""What operators are told of callers who are not let in: the first refusal of each at once, then a line a minute.

Used by the HTTP endpoints and the messaging interfaces of one service, which share one log; the runtime has it
summarise. Whoever tries 5,000 keys a second fills neither the log nor the memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import anyio

logger: logging.Logger = logging.getLogger(__name__)

SUMMARY_INTERVAL = 60.0
"""Seconds from the first refusal that was not logged to the line that counts them."""

MAX_CLIENTS = 1_000
"""Callers that are told apart; what comes from others meanwhile is only counted."""

MAX_LINES = 30
"""Refusals that are logged one by one until the next summary."""


class RefusalLog:
    """Counts refusals by caller, and logs them sparingly."""

    def __init__(self) -> None:
        self._unlogged: OrderedDict[str, int] = OrderedDict()
        """Refusals of callers that were logged before, since the last summary."""
        self._of_others = 0
        """Refusals of callers that are not in the table."""
        self._lines = 0
        self._pending = anyio.Event()

    def __len__(self) -> int:
        """How many callers are told apart now."""
        return len(self._unlogged)

    def refused(self, what: str, caller: str, reason: Callable[[], str]) -> None:
        """Note that a caller was not let in.

        Args:
            what: What it asked for, such as `POST /run`.
            caller: Tells it from others: an address, or a user of a platform.
            reason: Says why; called only if the line is logged.
        """
        if self._is_due(caller):
            logger.warning("refused %s from %s: %s", what, caller, reason())

    def failed(self, provider: object) -> None:
        """Note that a provider raised: called where its exception is handled."""
        if self._is_due(f"failures of {type(provider).__name__}"):
            logger.exception("the auth provider %r failed; the request is denied", provider)

    async def run(self) -> None:
        """Log a summary a minute while there is something to say, until cancelled; at last of what is left."""
        try:
            while True:
                await self._pending.wait()
                await anyio.sleep(SUMMARY_INTERVAL)
                self.summarise()
        finally:
            self.summarise()

    def summarise(self) -> None:
        """Log how many refusals were not logged, and by whom most; forget callers who were not refused since."""
        count = sum(self._unlogged.values()) + self._of_others
        if count:
            caller = max(self._unlogged, key=lambda each: self._unlogged[each], default=None)
            times = 0 if caller is None else self._unlogged[caller]
            most = f", most from {caller} ({times})" if times else ""
            logger.warning("refused %d more since the last such line%s", count, most)
        self._unlogged = OrderedDict((caller, 0) for caller, times in self._unlogged.items() if times)
        self._of_others = self._lines = 0
        self._pending = anyio.Event()

    def _is_due(self, caller: str) -> bool:
        """Whether this refusal is logged by itself; else it is counted."""
        self._pending.set()
        if caller in self._unlogged:
            self._unlogged[caller] += 1
            return False
        if self._lines >= MAX_LINES or len(self._unlogged) >= MAX_CLIENTS:
            self._of_others += 1
            return False
        self._unlogged[caller] = 0
        self._lines += 1
        return True
