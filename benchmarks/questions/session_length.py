"""Does a run cost more in a long session? One run after the other, on a model that reads nothing of what it is sent.

`early` are the second to the fourth run of a session, `hundredth` those around the hundredth, when as many messages are
kept as are kept by default; `long` are runs in a session of ten thousand messages, all of which are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import anyio

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question
from definable.agent import Agent
from definable.agent.session import MemorySessionStore, Session, SessionStore, SQLiteSessionStore
from definable.model import FunctionModel, Message

EARLY, HUNDREDTH = range(1, 4), range(97, 100)
"""Runs of a session that are timed, from 0 on."""

LONG = 10_000
"""Messages."""


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    with TemporaryDirectory() as directory:
        memory, sqlite = MemorySessionStore, partial(SQLiteSessionStore, Path(directory) / "sessions.db")
        store = {"memory": memory, "SQLite": sqlite}[contender.subject]()
        return anyio.run(_measure, store, effort, backend=contender.backend)


async def _answer(request: object) -> str:
    return "answer"


async def _measure(store: SessionStore, effort: Effort) -> Mapping[str, float]:
    agent = Agent(FunctionModel(_answer), sessions=store)
    patient = Agent(FunctionModel(_answer), sessions=store, max_history=2 * LONG)
    early, hundredth, long = list[float](), list[float](), list[float]()
    async with store.open():
        for number in range(effort.runs // 100 or 1):
            times = [await _timed(agent, f"session {number}") for _ in range(HUNDREDTH.stop)]
            early += [times[run] for run in EARLY]
            hundredth += [times[run] for run in HUNDREDTH]
        said = (Message("user", "question"), Message("assistant", "answer")) * (LONG // 2)
        await store.save(Session("long", messages=said))
        await _timed(patient, "long")
        long = [await _timed(patient, "long") for _ in range(effort.runs // 10 or 1)]
    return {
        "early": median(early) * 1e6,
        "hundredth": median(hundredth) / median(early),
        "long": median(long) / median(early),
    }


async def _timed(agent: Agent, session_id: str) -> float:
    """Seconds of a run."""
    started = perf_counter()
    await agent.arun("question", session_id=session_id)
    return perf_counter() - started


QUESTION = Question(
    name="session_length",
    asks="does a run cost more in a long session?",
    contenders=tuple(
        Contender(f"{store}, {backend}", store, backend=backend, ours=True)
        for store in ("memory", "SQLite")
        for backend in ("asyncio", "trio")
    ),
    columns=(
        Column("early", "an early run, us"),
        Column("hundredth", "the hundredth, times that", target=1.3, has_ratio=False),
        Column("long", "with 10,000 messages sent, times that", has_ratio=False),
    ),
    measure=measure,
)
