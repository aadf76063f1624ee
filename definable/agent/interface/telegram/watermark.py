"""Which updates may be acknowledged: pure.

Telegram forgets all updates below the `offset` of a poll. The offset moves past an update once its handling has ended,
so that one which is not answered comes again (https://core.telegram.org/bots/api#getupdates).
"""

from __future__ import annotations

FORGET_AFTER = 6 * 24 * 3600.0
"""Seconds without updates: after a week of silence their numbers begin anew, maybe below the offset."""


class Watermark:
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
