"""What a framework's module provides, and the words that all agents say.

Every model is in this process, answers after one pass through the event loop, and says the same in all frameworks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import Protocol, TypeAlias, cast

Run: TypeAlias = Callable[[], Awaitable[str]]
"""Makes one run and returns the reply's text."""

Deltas: TypeAlias = Callable[[], AsyncIterator[str]]
"""Streams one reply, delta by delta."""

INPUT = "hi"
"""What every agent is asked; also the reply of the models that call no tool."""

SUM_REPLY = "The sum is 3"
"""The reply of the models that call `add` first."""

DELTA = "word "
"""What every delta of a streamed reply says."""


async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


class Framework(Protocol):
    """A framework's module."""

    def echoing(self, latency: float = 0.0) -> Run:
        """An agent whose model answers `INPUT` after `latency` seconds."""
        ...

    def adding(self) -> Run:
        """An agent whose model calls `add` with 1 and 2, then answers `SUM_REPLY`."""
        ...

    def construct(self) -> Callable[[], object]:
        """Makes an agent with the tool `add`, each time anew; its model is there already."""
        ...

    def construct_and_run(self) -> Run:
        """Makes an agent with the tool `add`, each time anew, and runs it once, up to `SUM_REPLY`."""
        ...

    def agent_deltas(self, count: int) -> Deltas:
        """An agent whose model streams `count` times `DELTA`."""
        ...

    def model_deltas(self, count: int) -> Deltas:
        """That model alone."""
        ...


def load(subject: str) -> Framework:
    """The framework of a contender."""
    return cast(Framework, import_module(subject))
