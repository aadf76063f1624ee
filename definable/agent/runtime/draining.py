"""Whether a stop has begun, for code that would go on without end: `AgentRuntime.draining`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import anyio


class Draining:
    """A stop has begun: true from then on, and to be waited for.

    ```python
    while not runtime.draining:
        with anyio.move_on_after(1):
            await runtime.draining.wait()
    ```
    """

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began = anyio.Event()

    def __bool__(self) -> bool:
        return self._began.is_set()

    def __repr__(self) -> str:
        return f"<Draining: {bool(self)}>"

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()

    def is_set(self) -> bool:
        """Whether a stop has begun."""
        return self._began.is_set()

    async def wait(self) -> None:
        """Returns once a stop has begun, at once if it has."""
        await self._began.wait()

    def begin(self) -> None:
        """Notifies whoever waits; the runtime's own to call."""
        self._began.set()
