"""What the user opens around serving: `Agent(lifespan=...)`."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from definable.agent.agent import Agent

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
