"""The thread in which an asyncio loop runs for libraries that know no trio."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
import sniffio

from definable.concurrency.asyncio_thread import AsyncioHome

pytestmark = pytest.mark.anyio


async def test_what_the_garbage_collector_closes_from_here_is_asyncio_s_there() -> None:
    """asyncio closes an abandoned generator in the context of whoever collects it, which may be trio's thread."""
    home, library = AsyncioHome(), list[str]()
    closed = threading.Event()

    async def close() -> None:
        library.append(sniffio.current_async_library())
        closed.set()

    loop = await home.loop()
    loop.call_soon_threadsafe(loop.create_task, close())
    await anyio.to_thread.run_sync(closed.wait, 10)
    await home.aclose()
    assert library == ["asyncio"]
