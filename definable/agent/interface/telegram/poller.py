"""Long polling: take updates, hand them on, acknowledge those whose handling has ended.

Telegram forgets all updates below the `offset` of a poll. The offset moves past an update once its handling has ended,
so that one which is not answered comes again (https://core.telegram.org/bots/api#getupdates).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio

from definable.agent.interface.errors import InterfaceConnectionError, InterfaceError, InterfaceRateLimitError
from definable.concurrency.backoff import Backoff
from definable.concurrency.logs import logger_named

from .client import BotAPI, TelegramConflict
from .config import TelegramConfig
from .update import ALLOWED_UPDATES, update_id_of

FORGET_AFTER = 6 * 24 * 3600.0
"""Seconds without updates: after a week of silence their numbers begin anew, maybe below the offset."""


class OffsetTracker:
    """Follows updates from when they are taken until their handling has ended."""

    __slots__ = ("_ended", "_next", "_pending", "_taken_at")

    def __init__(self) -> None:
        self._pending: dict[int, None] = {}
        """Taken, in ascending order of their numbers as far as they came so."""
        self._ended: set[int] = set()
        """Ended, while one before them has not."""
        self._next: int | None = None
        """One past the highest that was taken."""
        self._taken_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether all that was taken has ended."""
        return not self._pending

    def offset(self, now: float) -> int | None:
        """The first update that is not ended; None: Telegram shall begin with the earliest it has.

        Args:
            now: Seconds of a clock that never goes back.
        """
        if self._pending:
            return min(self._pending)
        if now - self._taken_at > FORGET_AFTER:
            self._next = None
        return self._next

    def take(self, update_id: int, now: float) -> bool:
        """Take an update; False when it was taken before."""
        lowest = min(self._pending, default=self._next)
        is_old = lowest is not None and update_id < lowest
        if is_old or update_id in self._pending or update_id in self._ended:
            return False
        self._pending[update_id] = None
        self._next = max(self._next or 0, update_id + 1)
        self._taken_at = now
        return True

    def give_back(self, update_id: int) -> None:
        """Note that the update taken last was not handed on: it shall come again."""
        del self._pending[update_id]
        self._next = update_id

    def end(self, update_id: int) -> None:
        """Note that an update's handling has ended."""
        if update_id not in self._pending:
            return
        del self._pending[update_id]
        self._ended.add(update_id)
        lowest = min(self._pending, default=self._next or 0)
        self._ended = {ended for ended in self._ended if ended > lowest}


logger: logging.Logger = logger_named(__name__)

MAX_UPDATES = 100
"""Of one poll, and so beyond the first that is not ended (https://core.telegram.org/bots/api#getupdates)."""

MAX_FAILURES = 3
"""Consecutive failed polls before the supervisor restarts polling; single ones are common."""

POLL_BACKOFF = Backoff(jitter=0.0)

ACKNOWLEDGE_TIMEOUT = 5.0
"""Seconds that the last acknowledgement may take."""

ACKNOWLEDGE_PAUSE = 0.5
"""Seconds between two tries of it."""


class Poller:
    """Asks Telegram for updates, over restarts of the polling.

    An update that is not acknowledged is returned at once by every poll. So while some are being handled the polls are
    short, with pauses that the end of the last handling cuts short; when none is, Telegram holds the poll open.

    Args:
        config: How to poll.
    """

    def __init__(self, config: TelegramConfig) -> None:
        self._config = config
        self._offsets = OffsetTracker()
        self._idle = anyio.Event()
        self._acknowledged: int | None = None
        """The offset of the last poll that was answered."""
        self._has_warned = False
        """Whether it was logged that all polls are full of what was taken before."""

    async def poll(self, api: BotAPI, take: Callable[[Any], Awaitable[None]], alive: Callable[[], None]) -> None:
        """Poll until cancelled.

        Args:
            api: The Bot API.
            take: Takes an update; `ended` is called when its handling has ended.
            alive: Called for every answer.

        Raises:
            InterfaceError: Telegram did not answer, or not as it should, several times in a row; or another poller is
                at work; or the token was revoked.
        """
        failures = 0
        while True:
            began = anyio.current_time()
            try:
                updates = await self._updates(api)
            except (InterfaceConnectionError, InterfaceRateLimitError) as error:
                failures += 1
                if isinstance(error, TelegramConflict):
                    raise await _explained(error, api) from None
                if failures == MAX_FAILURES:
                    raise
                logger.info("telegram: a poll failed, trying again: %s", error)
                await anyio.sleep(error.retry_after or POLL_BACKOFF.delay(failures))
                continue
            failures = 0
            alive()
            nothing_new = True
            for update in updates:
                update_id = update_id_of(update)
                if update_id is not None and self._offsets.take(update_id, anyio.current_time()):
                    nothing_new = False
                    await self._hand_on(update, update_id, take)
            self._warn_of_full_polls(len(updates) >= MAX_UPDATES, nothing_new)
            await self._pause(began, is_empty=not updates)

    def _warn_of_full_polls(self, is_full: bool, nothing_new: bool) -> None:
        if is_full and nothing_new and not self._has_warned:
            logger.warning(
                "telegram: %d messages wait for their answers; Telegram delivers no more until the first of them, "
                "update %s, is answered",
                MAX_UPDATES,
                self._offsets.offset(anyio.current_time()),
            )
        self._has_warned = is_full and (nothing_new or self._has_warned)

    async def _hand_on(self, update: Any, update_id: int, take: Callable[[Any], Awaitable[None]]) -> None:
        try:
            await take(update)
        except BaseException:  # not accepted, or that is unknown
            self._offsets.give_back(update_id)
            raise

    def ended(self, update_id: int) -> None:
        """An update's handling has ended."""
        self._offsets.end(update_id)
        if self._offsets.is_idle:
            self._idle.set()

    async def acknowledge(self, api: BotAPI) -> None:
        """Tell Telegram of what has ended since the last poll, so that it does not come again after a restart."""
        offset = self._offsets.offset(anyio.current_time())
        if offset is None or offset == self._acknowledged:
            return
        # Shielded: what was answered must not come again, also when the service is cancelled.
        with anyio.move_on_after(ACKNOWLEDGE_TIMEOUT, shield=True):
            while not await self._acknowledged_now(api, offset):  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(ACKNOWLEDGE_PAUSE)
            return
        logger.warning("telegram: not acknowledged in %g s, the last updates may come again", ACKNOWLEDGE_TIMEOUT)

    async def _acknowledged_now(self, api: BotAPI, offset: int) -> bool:
        try:
            await api.call("getUpdates", {"offset": offset, "timeout": 0, "limit": 1})
        except (InterfaceConnectionError, InterfaceRateLimitError) as error:
            logger.info("telegram: the last updates are not acknowledged yet: %s", error)
            return False
        except InterfaceError as error:
            logger.warning("telegram: the last updates cannot be acknowledged: %s", error)
        return True

    async def _updates(self, api: BotAPI) -> list[Any]:
        offset = self._offsets.offset(anyio.current_time())
        seconds = self._config.polling_timeout if self._offsets.is_idle else 0
        parameters = {"offset": offset, "timeout": seconds, "limit": MAX_UPDATES, "allowed_updates": ALLOWED_UPDATES}
        updates = await api.call("getUpdates", parameters, held_open=seconds)
        if not isinstance(updates, list):
            raise InterfaceConnectionError("getUpdates: Telegram answered with something else than a list")
        self._acknowledged = offset
        return cast("list[Any]", updates)

    async def _pause(self, began: float, *, is_empty: bool) -> None:
        interval = self._config.polling_interval
        if not self._offsets.is_idle:
            self._idle = anyio.Event()
            with anyio.move_on_after(interval):
                await self._idle.wait()
        elif not is_empty or anyio.current_time() - began < interval:  # nothing new, and not held open: do not spin
            await anyio.sleep(interval)


async def _explained(conflict: TelegramConflict, api: BotAPI) -> TelegramConflict:
    """A conflict with the way out (https://core.telegram.org/bots/api#getupdates, notes)."""
    if "webhook is active" not in str(conflict):
        return TelegramConflict(
            f"{conflict}. Another process polls with this token: stop it, or give this bot a token of its own"
        )
    try:
        url = (await api.call("getWebhookInfo")).get("url")
    except (InterfaceError, AttributeError):
        url = None
    return TelegramConflict(
        f"{conflict}. Its updates go to {url or 'a webhook'}: stop the program there and open "
        "https://api.telegram.org/bot<token>/deleteWebhook once, or receive them here with mode='webhook'"
    )
