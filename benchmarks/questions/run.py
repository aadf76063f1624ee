"""What does `POST /run` cost on a model that answers at once, whole and streamed?"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.effort import Effort
from benchmarks.load.requests import AGNO_RUN, AGNO_RUN_STREAMED, RUN, RUN_STREAMED, Ask
from benchmarks.load.service import numbers
from benchmarks.question import Column, Contender, Question
from benchmarks.served.line_up import DEFINABLE, PEERS

AGNO = PEERS[0]


def question(name: str, asks: str, ours: Ask, agnos: Ask, target: float | None) -> Question:
    """`ours` and `agnos` are the same request, each as its service takes it."""

    def measure(contender: Contender, effort: Effort) -> Mapping[str, float]:
        ask = ours if contender.ours else agnos
        return numbers(contender.subject, contender.backend, ask, effort.load)

    return Question(
        name=name,
        asks=asks,
        contenders=(AGNO, *DEFINABLE),
        columns=(
            Column("rate", "requests/s", target=target, target_is_ratio=True, at_least=True),
            Column("cost", "processor, us each"),
        ),
        measure=measure,
    )


QUESTION = question("run", "what does a run cost over HTTP?", RUN, AGNO_RUN, 20.0)

STREAMED = question(
    "run_streamed", "what does a run cost over HTTP whose events are streamed?", RUN_STREAMED, AGNO_RUN_STREAMED, None
)
