"""Who takes part where a question is put to whole frameworks."""

from __future__ import annotations

from benchmarks.question import Contender

DEFINABLE = (
    Contender("definable, asyncio", "benchmarks.frameworks.definable", ours=True),
    Contender("definable, trio", "benchmarks.frameworks.definable", backend="trio", ours=True),
)

PEERS = (
    Contender("agno", "benchmarks.frameworks.agno", needs=("agno",)),
    Contender("pydantic-ai", "benchmarks.frameworks.pydantic_ai", needs=("pydantic-ai-slim",)),
)

FRAMEWORKS = DEFINABLE + PEERS
