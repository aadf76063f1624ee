"""What does a webhook cost that is acknowledged?"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.effort import Effort
from benchmarks.load.requests import WEBHOOK
from benchmarks.load.service import numbers
from benchmarks.question import Column, Contender, Question


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return numbers(contender.subject, contender.backend, WEBHOOK, effort.load)


QUESTION = Question(
    name="webhook",
    asks="what does a webhook cost that is acknowledged?",
    contenders=(
        Contender("FastAPI, uvicorn", "benchmarks.served.fastapi", needs=("fastapi", "uvicorn", "httptools", "uvloop")),
        Contender("definable, asyncio", "benchmarks.served.webhooks", ours=True),
        Contender("definable, trio", "benchmarks.served.webhooks", backend="trio", ours=True),
    ),
    columns=(
        Column("rate", "requests/s", target=2.0, target_is_ratio=True, at_least=True),
        Column("cost", "processor, us each"),
    ),
    measure=measure,
)
