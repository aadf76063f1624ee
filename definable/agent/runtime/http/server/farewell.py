"""The end of a connection: bounded, and so that what was said last arrives. Both kinds of connection hold one."""

from __future__ import annotations

from math import inf

import anyio

from .transport import Transport

LAST_CALL = 1.0
"""Seconds that a connection which must end may take to say so, and to let what it said arrive."""


class Farewell:
    """Closes one connection.

    Args:
        transport: Its bytes.
    """

    __slots__ = ("_last_call", "_transport", "lingers")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._last_call = inf
        self.lingers: bool = False
        """Whether something was said that the client should get to read before the connection is gone."""

    def must_end_by(self) -> float:
        """The time until which a cancelled connection may still speak: the first caller starts the clock."""
        self._last_call = min(self._last_call, anyio.current_time() + LAST_CALL)
        return self._last_call

    async def close(self) -> None:
        """Closes the connection, also when it is cancelled."""
        # Shielded, so that what was said arrives. Bounded by the last call.
        with anyio.CancelScope(shield=True, deadline=self.must_end_by()):
            try:
                if self.lingers:
                    await self._transport.linger()
            finally:
                await self._transport.aclose()
