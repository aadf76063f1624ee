"""The client of one event loop: connections belong to the loop that opened them, and a model is used in several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token
from anyio.to_thread import run_sync


class Closable(Protocol):
    """What is closed at the end of its event loop."""

    async def aclose(self) -> None:
        """Close the connections."""
        ...


Client = TypeVar("Client", bound=Closable)


class LoopClients(Generic[Client]):
    """A client for each event loop, made when first asked for.

    Args:
        make: Makes one; called in a thread, since reading an SDK and CA certificates takes too long for an event loop.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._held: WeakKeyDictionary[object, LoopClient[Client]] = WeakKeyDictionary()

    async def get(self) -> Client:
        """The running event loop's client."""
        loop = current_token().native_token
        held = self._held.get(loop)
        if held is None:
            held = self._held[loop] = LoopClient()
        return await held.get(self._make)

    async def aclose(self) -> None:
        """Close the running event loop's client; another is made when it is asked for again."""
        held = self._held.get(current_token().native_token)
        if held is not None:
            await held.aclose()


class LoopClient(Generic[Client]):
    """The client of one event loop."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._client: Client | None = None
        self._life: AsyncGenerator[None] | None = None

    async def get(self, make: Callable[[], Client]) -> Client:
        """The client, made by `make` where there is none."""
        if self._client is not None:
            return self._client
        async with self._lock:
            if self._client is None:
                client = await run_sync(make)
                self._life = self._live(client)
                await anext(self._life)
                self._client = client
            return self._client

    async def aclose(self) -> None:
        """Close the client."""
        async with self._lock:
            if self._life is not None:
                await self._life.aclose()

    async def _live(self, client: Client) -> AsyncGenerator[None]:
        """Suspended as long as the client is open, closed with it.

        asyncio and trio both close the async generators that are left when an event loop ends: a script that never
        calls `aclose()` leaves no open socket behind.
        """
        try:
            yield
        finally:
            self._client = self._life = None  # a generator refers to its loop, which must not outlive its end here
            await client.aclose()
