"""The questions by name, in the order in which `python -m benchmarks` asks them."""

from __future__ import annotations

from .question import Question
from .questions import agent_construction, agent_run, bus, concurrent_runs, idle, import_time, stream

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (agent_run, agent_construction, concurrent_runs, stream, import_time, idle, bus)
}
