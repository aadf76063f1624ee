"""What the user opens around serving: `Agent(lifespan=...)`.

The models that are in service: services of one event loop may share one, and the last of them closes it.

How often Python looks for reference cycles while we serve in a process of our own. `entry.py` opens it.

By default it looks after 700 new objects, and through everything that lives after a few thousand runs' worth: with
thousands of kept sessions that was a third of the processor's time. What is out of use is freed at once all the same,
unless it is part of a cycle.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.lowlevel import RunVar

from definable.agent.agent import Agent
from definable.model.message import Model

THRESHOLDS = (10_000, 20, 50)
"""New objects before the youngest are looked through, and how often that happens before the older ones are too."""


_lock = threading.Lock()
_before: list[tuple[int, int, int]] = []
"""The process's thresholds at each opening: several threads may serve at once, and end in any order."""


@contextmanager
def gc_tuning() -> Generator[None]:
    """Looks for cycles less often while the context is open; what the user set higher, or switched off, stays."""
    with _lock:
        before = gc.get_threshold()
        _before.append(before)
        if before[0]:
            gc.set_threshold(*map(max, before, THRESHOLDS))
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:  # the last to end puts back what the first has found
                gc.set_threshold(*before)


MODEL_CLOSE_TIMEOUT = 5.0
"""Seconds that closing the model's connections may take."""

_services: RunVar[Counter[int]] = RunVar("definable_served_models")
"""How many services a model is in, by its `id()`: one that is in none is not there."""


@asynccontextmanager
async def model_lifetime(model: Model) -> AsyncGenerator[None, None]:
    """Use a model while the context is open; the last one to leave closes its connections.

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


logger: logging.Logger = logging.getLogger("definable")

CLOSE_TIMEOUT = 10.0
"""Seconds that the lifespan may take to close what it has opened."""


@asynccontextmanager
async def agent_lifespan(agent: Agent) -> AsyncGenerator[None, None]:
    """Enter an agent's lifespan, and leave it within a bound, also when serving is cancelled.

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
                closing.deadline, closing.shield = anyio.current_time() + CLOSE_TIMEOUT, True
    if closing.cancelled_caught:
        logger.error("the lifespan of %s was cut off: it did not close within %g s", agent.name, CLOSE_TIMEOUT)
