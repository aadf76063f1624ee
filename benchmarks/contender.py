"""One contender of one round, in a process of its own: `rounds.py` starts it and reads the last line that it prints."""

from __future__ import annotations

import json
import sys

from .catalog import QUESTIONS
from .effort import EFFORTS


def main(question: str, contender: str, effort: str) -> None:
    """Measure, and print the numbers as one line of JSON."""
    asked = QUESTIONS[question]
    print(json.dumps(dict(asked.measure(asked.contender(contender), EFFORTS[effort]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
