"""The dedupe keys of an open `SQLiteBus`: decided in memory, since the file has one owner, and mirrored in the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio.lowlevel import checkpoint

from .dedupe import DedupeWindow
from .sqlite_writer import SQLiteWriter


class SQLiteKeys:
    """Remembers keys.

    A publication's key is written in the transaction that writes the publication. A key that was claimed for work which
    is done while somebody waits is written when the bus closes: of what a process that died had claimed nobody knows
    whether it was done, so it may come again.

    Args:
        stored: Keys of earlier openings and when they expire (Unix seconds).
        writer: Writes them.
        now: Tells Unix seconds, and does not step.
    """

    def __init__(self, stored: Sequence[tuple[str, float]], writer: SQLiteWriter, now: Callable[[], float]) -> None:
        self._window = DedupeWindow(self._forgotten)
        self._writer = writer
        self._now = now
        self._claims: dict[str, float] = {}
        """Keys that no publication brought, and when they expire."""
        for key, expires_at in stored:
            self._window.claim(key, expires_at - now(), now())

    def take(self, key: str, ttl: float) -> bool:
        """Take a key for a publication, at once; False when it is taken."""
        return self._window.claim(key, ttl, self._now())

    async def take_surely(self, key: str, ttl: float) -> bool:
        """Take a key; False when it is taken, but not before the publication that took it is safe.

        Raises:
            StorageError: That cannot be said, the file fails.
        """
        while not self.take(key, ttl):
            if not self._writer.is_writing_key(key):
                await checkpoint()
                return False
            await self._writer.all_written()
        return True

    async def claim(self, key: str, ttl: float) -> bool:
        """Take a key without a publication."""
        if not await self.take_surely(key, ttl):
            return False
        self._claims[key] = self._now() + ttl
        return True

    def release(self, key: str) -> None:
        """Forget a key."""
        self._window.release(key)
        if self._claims.pop(key, None) is None:
            self._writer.pending.forget(key)
            self._writer.wish()

    def untake(self, key: str) -> None:
        """Its publication was not accepted after all, and nothing was written."""
        self._window.release(key)

    def write_claims(self) -> None:
        """Have the keys written that no publication brought."""
        self._writer.pending.keys |= self._claims

    def _forgotten(self, key: str) -> None:
        if self._claims.pop(key, None) is None:
            self._writer.pending.forget(key)
            self._writer.wish()
