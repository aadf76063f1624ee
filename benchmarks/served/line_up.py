"""Who takes part where a question is put to services."""

from __future__ import annotations

from benchmarks.question import Contender

DEFINABLE = (
    Contender("definable, asyncio", "benchmarks.served.definable", ours=True),
    Contender("definable, trio", "benchmarks.served.definable", backend="trio", ours=True),
)

PEERS = (
    Contender("agno, AgentOS", "benchmarks.served.agno", needs=("agno", "fastapi", "python-multipart", "uvicorn")),
    Contender(
        "pydantic-ai, FastAPI",
        "benchmarks.served.pydantic_ai",
        needs=("pydantic-ai-slim", "fastapi", "uvicorn", "apscheduler"),
    ),
)

SERVICES = DEFINABLE + PEERS
