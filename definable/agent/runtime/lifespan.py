"""What lives as long as the runtime serves: its own children, the user's lifespan, the models in use.

`runtime.py` opens them; `entry.py` tunes the garbage collector of a process that serves and nothing else.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import RunVar

from definable.agent.agent import Agent
from definable.concurrency.isolation import error_text, failure_of
from definable.concurrency.logs import logger_named
from definable.errors import ServeError
from definable.model.message import Model

logger: logging.Logger = logger_named("definable")

LIFESPAN_CLOSE_TIMEOUT = 10.0
"""Seconds that the lifespan may take to close what it has opened."""

MODEL_CLOSE_TIMEOUT = 5.0
"""Seconds that closing the model's connections may take."""

GC_THRESHOLDS = (10_000, 20, 50)
"""New objects before the youngest are looked through, and how often that happens before the older ones are too."""


async def run_child(
    name: str,
    function: Callable[..., Awaitable[object]],
    may_end: Callable[[], bool],
    *,
    task_status: TaskStatus[Any] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run one of the runtime's children, which must not end by itself before a stop.

    anyio on asyncio takes a child that ends by a cancellation which no scope of anyio's made (`Task.cancel`, an
    `asyncio.timeout` that somebody left open) for one that may end so, and cancels the whole group without an error.

    Args:
        name: Of the child, for the error.
        function: The child; it is handed `task_status`.
        may_end: Whether it may end by itself now, since a stop has begun.
        task_status: The child's own.

    Raises:
        ServeError: It ended by itself: serving cannot go on.
        Exception: What it raised; it is logged by then.
    """
    try:
        await function(task_status=task_status)
    except Exception as error:
        logger.critical("%s failed, and serving ends: %s", name, error_text(error))
        raise
    except anyio.get_cancelled_exc_class() as stray:
        if anyio.get_current_task().has_pending_cancellation():
            raise
        raise _ended(name, "it was cancelled by none of our scopes") from failure_of(stray, name)
    if not may_end():
        raise _ended(name, "it returned")


def _ended(name: str, how: str) -> ServeError:
    logger.critical("%s ended by itself (%s): serving ends, since it cannot do without", name, how)
    return ServeError(f"{name} ended by itself ({how}): serving cannot go on")


@asynccontextmanager
async def agent_lifespan(agent: Agent) -> AsyncGenerator[None, None]:
    """Enter an agent's lifespan (`Agent(lifespan=...)`), and leave it within a bound, also when serving is cancelled.

    Raises:
        Exception: What the lifespan raises when it is entered or left.
    """
    if agent.lifespan is None:
        yield
        return
    with anyio.CancelScope() as closing:
        async with agent.lifespan(agent):
            try:
                yield
            finally:
                # Shielded: what it has opened is closed also when serving was cancelled. Bounded by the deadline.
                closing.deadline, closing.shield = anyio.current_time() + LIFESPAN_CLOSE_TIMEOUT, True
    if closing.cancelled_caught:
        logger.error("the lifespan of %s was cut off: it did not close within %g s", agent.name, LIFESPAN_CLOSE_TIMEOUT)


_services: RunVar[Counter[int]] = RunVar("definable_served_models")
"""How many services of this event loop use a model, by its `id()`: one that none uses is not there."""


@asynccontextmanager
async def model_lifetime(model: Model) -> AsyncGenerator[None, None]:
    """Use a model while the context is open; the last service to leave closes its connections.

    They must not outlive the event loop, so they are closed also when cancelled, within a bound.
    """
    services = _services.get(None)
    if services is None:
        services = Counter[int]()
        _services.set(services)
    services[id(model)] += 1
    try:
        yield
    finally:
        services[id(model)] -= 1
        if not services[id(model)]:
            del services[id(model)]
            with anyio.move_on_after(MODEL_CLOSE_TIMEOUT, shield=True):
                await model.aclose()


_lock = threading.Lock()
_before: list[tuple[int, int, int]] = []
"""The process's thresholds at each opening: several threads may serve at once, and end in any order."""


@contextmanager
def gc_tuning() -> Generator[None]:
    """Looks for reference cycles less often; what the user set higher, or switched off, stays.

    By default Python looks after 700 new objects, and through everything that lives after a few thousand runs' worth:
    with thousands of kept sessions that was a third of the processor's time. What is out of use is freed at once all
    the same, unless it is part of a cycle.
    """
    with _lock:
        before = gc.get_threshold()
        _before.append(before)
        if before[0]:
            gc.set_threshold(*map(max, before, GC_THRESHOLDS))
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:  # the last to end puts back what the first has found
                gc.set_threshold(*before)
