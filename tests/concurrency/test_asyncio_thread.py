"""The thread in which an asyncio loop runs for libraries that know no trio."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator

import anyio
import anyio.to_thread
import pytest
import sniffio

from definable.concurrency.asyncio_thread import AsyncioHome, RemoteIteration

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


async def test_what_the_code_leaves_open_is_closed_at_once() -> None:
    """As LangChain leaves the generators of its inner steps: the end of their last reference alone closes them."""
    home, closed = AsyncioHome(), threading.Event()

    async def inner() -> AsyncGenerator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.set()

    async def outer() -> AsyncGenerator[int]:
        steps = inner()
        async for number in steps:
            yield number
            await asyncio.sleep(60)

    gc.disable()
    try:
        with anyio.fail_after(10):
            async with RemoteIteration(await home.loop(), outer, "outer") as numbers:
                assert await anext(numbers) == 1
            del numbers
            await anyio.to_thread.run_sync(closed.wait)
    finally:
        gc.enable()
        await home.aclose()
