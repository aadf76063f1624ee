"""What handlers, models and wall clocks do in the chaos service."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.lowlevel
import sniffio
from chaos.plan import RAISED

from definable.concurrency.clock import SystemClock
from definable.errors import EventBufferFull
from definable.model import ModelDelta, ModelReply, ModelRequest, OfflineModel

STORM = 3_000
"""Events that a storm tries to emit."""

KEPT: deque[object] = deque(maxlen=100)
"""Clients and generators that handlers have left open."""

BLOCK = 0.15
"""Seconds for which a handler blocks the event loop."""


async def misbehave(deed: str, agent: object) -> None:
    """Do what the event says."""
    if deed == "nap":
        await anyio.sleep(0.05)
    elif deed == "raise":
        raise ZeroDivisionError("a planned failure")
    elif deed == "raise group":
        async with anyio.create_task_group() as group:
            group.start_soon(misbehave, "raise", agent)
            group.start_soon(misbehave, "raise", agent)
    elif deed == "exit":
        sys.exit(7)
    elif deed == "storm":
        storm(agent)
    elif deed == "block":
        time.sleep(BLOCK)  # noqa: ASYNC251 - that is the fault
    elif deed == "hang":
        await anyio.sleep_forever()
    elif deed == "swallow":
        await swallow()
    elif deed == "interrupt":
        raise KeyboardInterrupt
    else:
        await make_mistake(deed)


class Panic(BaseException):
    """As an extension written in Rust raises it."""


class Speechless(Exception):
    """Its message cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Wordless(Exception):
    """Its message is no string."""

    def __str__(self) -> str:
        return 42  # type: ignore[return-value]


def raise_mistake(deed: str) -> None:
    """What is raised by sync code and async code alike."""
    if deed == "panic":
        raise Panic("called `Option::unwrap()` on a `None` value")
    if deed == "panic group":
        raise BaseExceptionGroup("several", [Panic("one"), ValueError("two")])
    if deed == "generator exit":
        raise GeneratorExit
    if deed == "speechless":
        raise Speechless
    if deed == "wordless":
        raise Wordless
    if deed == "stray cancellation":
        raise asyncio.CancelledError


async def make_mistake(deed: str) -> None:
    """What each handler does sooner or later."""
    raise_mistake(deed)
    if deed == "fork":
        os.waitpid(fork_child_that_exits(), 0)  # noqa: ASYNC222 - a stop must not come in between
    elif deed == "leave scope":
        scope = anyio.CancelScope()
        scope.__enter__()
        scope.cancel()
    elif deed == "leave failing group":
        failing = anyio.create_task_group()
        KEPT.append(failing)
        await failing.__aenter__()
        failing.start_soon(misbehave, "raise", None)
        await anyio.sleep_forever()
    elif deed == "leave client":
        stack = AsyncExitStack()
        KEPT.append(stack)
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(anyio.sleep_forever)
    elif deed == "leave generator":
        kept = numbers()
        KEPT.append(kept)
        await anext(kept)
    elif deed == "leave time-out" and sniffio.current_async_library() == "asyncio":
        await asyncio.timeout(0.2).__aenter__()


def fork_child_that_exits() -> int:
    """A child that leaves as a program does, from within the handler."""
    child = os.fork()
    if child == 0:
        sys.exit(0)
    return child


async def numbers() -> AsyncGenerator[int]:
    """Has a time-out open around its `yield`."""
    with anyio.fail_after(0.2):
        yield 1


def misbehave_in_thread(deed: str) -> None:
    """The same, of a sync handler."""
    if deed == "exit thread":
        sys.exit(7)
    raise_mistake(deed)
    time.sleep(0.05)


async def swallow() -> None:
    """Take a cancellation for one of the failures that it tries to survive."""
    try:
        await anyio.sleep_forever()
    except BaseException:
        time.sleep(0.01)  # noqa: ASYNC251 - a little work that nothing can cut off


def storm(agent: object) -> None:
    """Emit until there is no room."""
    try:
        for _ in range(STORM):
            agent.emit("noise")  # type: ignore[attr-defined]
    except EventBufferFull:
        pass


class ChaosModel(OfflineModel):
    """Does what the user's message says, else echoes."""

    async def reply(self, request: ModelRequest) -> ModelReply:
        deed = self._deed(request)
        if deed == "stall":
            await anyio.sleep_forever()
        elif deed == "refuse":
            raise ConnectionResetError("the provider hung up")
        elif deed == "exit":
            sys.exit(8)
        elif deed == "mistake":
            raise_mistake(random.choice(RAISED))
        elif deed == "flood":
            return ModelReply("word " * 20_000)
        return await super().reply(request)

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelDelta]]:  # type: ignore[override]
        if self._deed(request) == "drop":
            yield dropping()
            return
        async with OfflineModel.stream(self, request) as deltas:
            yield deltas

    def _deed(self, request: ModelRequest) -> str:
        content = request.messages[-1].content
        return content.split()[-1] if isinstance(content, str) and content else ""


async def dropping() -> AsyncIterator[ModelDelta]:
    """A stream that breaks off."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
        yield ModelDelta("half ")
    raise ConnectionResetError("the provider hung up in the middle")


class SteppingClock(SystemClock):
    """A machine's clock that somebody sets all the time: NTP's steps, a suspend, a day of daylight saving."""

    STEPS = (-3600.0, -5.0, -0.5, 2.0, 90.0, 3600.0, 86_400.0)
    """Seconds."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._offset = 1_774_746_000.0 - time.time()  # an hour before Europe's clocks go forward, 2026-03-29

    def now(self) -> float:
        return time.time() + self._offset

    async def sleep_until(self, when: float) -> None:
        await anyio.sleep(min(max(when - self.now(), 0.0), 0.5))
        if self._chance.random() < 0.3:
            self._offset += self._chance.choice(self.STEPS)
