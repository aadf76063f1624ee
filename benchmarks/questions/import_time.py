"""How long does the import take, next to that of what it is built on?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from statistics import median

from benchmarks.effort import Effort
from benchmarks.question import Column, Contender, Question

CLOCKED = "import time; started = time.perf_counter(); {statement}; print(time.perf_counter() - started)"


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return {"import": median(seconds(contender.subject) for _ in range(effort.processes)) * 1e3}


def seconds(statement: str) -> float:
    """How long a statement takes in a fresh interpreter, whose own start does not count."""
    command = [sys.executable, "-c", CLOCKED.format(statement=statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


QUESTION = Question(
    name="import_time",
    asks="how long does the import take?",
    contenders=(
        Contender("anyio, pydantic", "import anyio, pydantic"),
        Contender("definable.agent", "import definable.agent", ours=True),
        Contender("definable.agent.Agent", "from definable.agent import Agent"),
        Contender("agno", "from agno.agent import Agent", needs=("agno",)),
        Contender("pydantic-ai", "from pydantic_ai import Agent", needs=("pydantic-ai-slim",)),
        Contender("fastapi", "from fastapi import FastAPI", needs=("fastapi",)),
    ),
    columns=(Column("import", "import, ms", target=1.25, target_is_ratio=True),),
    measure=measure,
)
