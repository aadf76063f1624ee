"""`FallbackModel`: another model answers where the first one cannot for now."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial

import anyio

from definable.concurrency.logs import logger_named
from definable.errors import (
    ConfigurationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelResponseError,
    ModelTimeoutError,
)

from .function import PlainProfile
from .message import Model, ModelDelta, ModelProfile, ModelReply, ModelRequest
from .resolve import resolve_model

logger: logging.Logger = logger_named("definable.model")


def may_fall_back(error: ModelError) -> bool:
    """Whether another provider may answer what this one could not: a rate limit, a time-out, no connection, a 5xx.

    What the request itself is refused for (a 4xx, a key, a content filter) is the caller's to see.
    """
    if isinstance(error, ModelRateLimitError | ModelTimeoutError | ModelConnectionError):
        return True
    return type(error) is ModelResponseError and (error.status is None or error.status >= 500)


class FallbackModel:
    """Asks a model, and the next one where it is rate-limited, away, too slow, or fails with a 5xx.

    Each model first tries again by its own rules (`max_retries`). A streamed answer goes on with the model that gave
    its first piece: what fails later fails. A request that a provider refuses (4xx, an invalid key, a content filter)
    is not put to the next one.

    Args:
        first: A `Model`, or a string as `Agent` takes it.
        others: Those asked after it, in this order.
        timeout: Seconds for all of them together, until the whole reply or the first piece of a streamed one; None for
            no limit but the run's and those of the models.

    Raises:
        ConfigurationError: There is no other model, or an argument is out of range.

    Example:
        >>> model = FallbackModel("openai/gpt-4o", "offline", timeout=30)
    """

    provider = "definable.fallback"
    """What spans call it; who answered is their response's model."""

    def __init__(self, first: Model | str, *others: Model | str, timeout: float | None = None) -> None:
        if not others:
            raise ConfigurationError("FallbackModel needs the models to fall back to, after the first one")
        if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
            raise ConfigurationError(f"timeout is a number of seconds above 0 or None, not {timeout!r}")
        self.models: tuple[Model, ...] = tuple(map(resolve_model, (first, *others)))
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"FallbackModel({', '.join(map(repr, self.models))})"

    @property
    def id(self) -> str:
        """The ids of the models, in their order."""
        return " or ".join(model.id for model in self.models)

    @property
    def profile(self) -> ModelProfile:
        """What all of them understand: each is asked in the same way."""
        profiles = [profile for model in self.models if (profile := getattr(model, "profile", None)) is not None]
        return PlainProfile(
            tools=all(profile.tools for profile in profiles),
            json_schema=all(profile.json_schema for profile in profiles),
            json_schema_with_tools=all(profile.json_schema_with_tools for profile in profiles),
        )

    @property
    def has_key(self) -> bool:
        """Whether every model that needs a key has one; serving warns at once when not."""
        return all(getattr(model, "has_key", True) for model in self.models)

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Answer whole; `ModelReply.model` says who did.

        Raises:
            ModelError: The failure of the last model that was asked, with the others' in its notes.
        """
        failures: list[str] = []
        with anyio.move_on_after(self.timeout):
            for model in self.models:
                try:
                    return _named(await model.reply(request), model)
                except ModelError as error:
                    self._note(model, error, failures)
        raise self._too_late(failures)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelDelta]]:
        """Answer piece by piece: the model that gives the first piece gives them all.

        Raises:
            ModelError: As `reply`; also that model's failure in the middle.
        """
        failures: list[str] = []
        with anyio.CancelScope() as scope:
            scope.deadline = math.inf if self.timeout is None else anyio.current_time() + self.timeout
            for model in self.models:
                begun = False
                try:
                    async with model.stream(request) as deltas:
                        first = await anext(deltas, None)
                        if first is None:
                            raise ModelResponseError(f"the stream of {model.id} ended without a whole reply")
                        begun, scope.deadline = True, math.inf
                        async with aclosing(_deltas(first, deltas, partial(_named, model=model))) as named:
                            yield named
                        return
                except ModelError as error:
                    if begun:
                        raise
                    self._note(model, error, failures)
        raise self._too_late(failures)

    async def aclose(self) -> None:
        """Close all of the models."""
        async with anyio.create_task_group() as group:
            for model in self.models:
                group.start_soon(model.aclose)

    def _note(self, model: Model, error: ModelError, failures: list[str]) -> None:
        """Note a failure, if another model is asked next.

        Raises:
            ModelError: None is.
        """
        if model is self.models[-1] or not may_fall_back(error):
            for failure in failures:
                error.add_note(f"before it {failure}")
            raise error
        failures.append(f"{model.id} failed: {error}")
        logger.warning("%s cannot answer, the next model is asked: %s", model.id, error)

    def _too_late(self, failures: list[str]) -> ModelTimeoutError:
        error = ModelTimeoutError(f"none of {self.id} answered within {self.timeout} s")
        for failure in failures:
            error.add_note(f"before it {failure}")
        return error


def _named(reply: ModelReply, model: Model) -> ModelReply:
    return reply if reply.model else replace(reply, model=model.id)


async def _deltas(
    first: ModelDelta, others: AsyncIterator[ModelDelta], name: Callable[[ModelReply], ModelReply]
) -> AsyncGenerator[ModelDelta]:
    yield first if first.reply is None else ModelDelta(first.text, name(first.reply))
    async for delta in others:
        yield delta if delta.reply is None else ModelDelta(delta.text, name(delta.reply))
