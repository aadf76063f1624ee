"""What does our server cost under one bare ASGI function, and the webhooks' endpoints on top of it?"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.effort import Effort
from benchmarks.load.requests import WEBHOOK
from benchmarks.load.service import numbers
from benchmarks.question import Column, Contender, Question

BARE = "benchmarks.served.bare"


def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
    return numbers(*contender.subject.split(" "), WEBHOOK, effort.load)


COLUMNS = (Column("rate", "requests/s"), Column("cost", "processor, us each"))

QUESTION = Question(
    name="bare_function",
    asks="what does a server cost under one bare ASGI function?",
    contenders=(
        Contender("uvicorn", f"{BARE} uvicorn", needs=("uvicorn", "httptools", "uvloop")),
        Contender("definable, asyncio", f"{BARE} asyncio", ours=True),
        Contender("definable, trio", f"{BARE} trio", ours=True),
        Contender("hypercorn", f"{BARE} hypercorn", needs=("uvloop",)),
    ),
    columns=(Column("rate", "requests/s", target=0.9, target_is_ratio=True, at_least=True), COLUMNS[1]),
    measure=measure,
)


def webhook_over_bare(backend: str) -> Question:
    """What a webhook costs over a bare function on the same server."""
    return Question(
        name=f"webhook_over_bare_{backend}",
        asks=f"what does a webhook cost over a bare ASGI function on our server, on {backend}?",
        contenders=(
            Contender("bare function", f"{BARE} {backend}"),
            Contender("webhook", f"benchmarks.served.webhooks {backend}", ours=True),
        ),
        columns=(Column("rate", "requests/s", target=0.7, target_is_ratio=True, at_least=True), COLUMNS[1]),
        measure=measure,
    )


WEBHOOK_OVER_BARE = (webhook_over_bare("asyncio"), webhook_over_bare("trio"))
