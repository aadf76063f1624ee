"""The way from sync code into the event loop: `Agent.run` and `Agent.serve`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import anyio
import sniffio

Result = TypeVar("Result")


def run_blocking(
    function: Callable[[], Awaitable[Result]],
    *,
    instead: str,
    backend: Literal["asyncio", "trio"] = "asyncio",
    backend_options: dict[str, Any] | None = None,
) -> Result:
    """Run an async function in an event loop of its own; on asyncio one of uvloop's, where that is installed.

    Args:
        function: What to run.
        instead: What to write where an event loop runs already; for the error.
        backend: Which event loop.
        backend_options: anyio's, for that backend.

    Raises:
        RuntimeError: An event loop runs in this thread already.
    """
    library = running_library()
    if library is not None:
        raise RuntimeError(f"{library} runs in this thread already: write `{instead}` here")
    if backend == "asyncio":
        backend_options = {"use_uvloop": find_spec("uvloop") is not None} | (backend_options or {})
    return _own_context().run(anyio.run, function, backend=backend, backend_options=backend_options)


def running_library() -> str | None:
    """The async library that runs in this thread; None when there is none."""
    try:
        return _own_context().run(sniffio.current_async_library)
    except sniffio.AsyncLibraryNotFoundError:
        return None


def _own_context() -> Context:
    """This context, less the name of the library that anyio notes in it: a thread may have been given that along."""
    context = copy_context()
    context.run(sniffio.current_async_library_cvar.set, None)
    return context
