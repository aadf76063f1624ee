"""Rounds: every contender once a round, each time in a process of its own, one after the other.

So no contender's imports, event loop or garbage are in another's way, and what the machine does beside hits all alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from .account import Account, Outcome
from .effort import Effort
from .question import Contender, Question

ROOT = Path(__file__).parent.parent

CONTENDER_TIMEOUT = 300.0
"""Seconds that one contender may take for one round."""


class ContenderFailed(Exception):
    """A contender could not be measured; the message is its last word."""


def ask(question: Question, *, rounds: int, effort: Effort, progress: Callable[[str], None]) -> Account:
    """Answer a question.

    Args:
        question: What to measure.
        rounds: How often each contender is measured.
        effort: How much each is made to do.
        progress: Told what is being done.
    """
    outcomes = {contender.name: Outcome(missing=contender.missing) for contender in question.contenders}
    for number in range(rounds):
        for contender in rotated(question.contenders, number):
            outcome = outcomes[contender.name]
            if outcome.missing or outcome.failure is not None:
                continue
            progress(f"{question.name}: round {number + 1} of {rounds}, {contender.name}")
            try:
                outcome.values.append(measured(question, contender, effort))
            except ContenderFailed as failure:
                outcome.failure = str(failure)
    return Account(question, outcomes)


def rotated(contenders: tuple[Contender, ...], by: int) -> tuple[Contender, ...]:
    """Each round begins with another contender: nobody always comes after the same neighbour."""
    start = by % len(contenders)
    return contenders[start:] + contenders[:start]


def measured(question: Question, contender: Contender, effort: Effort) -> Mapping[str, float]:
    """One contender's numbers of one round.

    Raises:
        ContenderFailed: Its process ended otherwise than with numbers, or took too long.
    """
    command = [sys.executable, "-m", "benchmarks.contender", question.name, contender.name, effort.name]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CONTENDER_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise ContenderFailed(f"not done after {CONTENDER_TIMEOUT:g} s") from None
    if done.returncode != 0:
        raise ContenderFailed(last_line(done.stderr) or f"exit status {done.returncode}")
    numbers: dict[str, float] = json.loads(last_line(done.stdout))
    return numbers


def last_line(text: str) -> str:
    """The last line that is not blank; empty when there is none."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
