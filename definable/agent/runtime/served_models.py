"""The models that are in service: services of one event loop may share one, and the last of them closes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import RunVar

from definable.model.base import Model

CLOSE_TIMEOUT = 5.0
"""Seconds that closing the model's connections may take."""

_services: RunVar[Counter[int]] = RunVar("definable_served_models")
"""How many services a model is in, by its `id()`: one that is in none is not there."""


@asynccontextmanager
async def in_service(model: Model) -> AsyncGenerator[None, None]:
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
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await model.aclose()
