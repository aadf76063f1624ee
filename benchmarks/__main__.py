"""`python -m benchmarks`: ask the questions, print the tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .account import Account
from .catalog import QUESTIONS
from .effort import EFFORTS, FULL, QUICK, Effort
from .question import installed_version
from .rounds import ask
from .table import as_table

ROUNDS = 5
ROUNDS_QUICK = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print and write.

    Returns:
        The exit status: 1 when a contender failed. A missed target or a missing peer is no failure.
    """
    options = parser().parse_args(arguments)
    effort = EFFORTS[options.effort]
    rounds = options.rounds or (ROUNDS if effort is FULL else ROUNDS_QUICK)
    accounts: list[Account] = []
    for name in options.questions or QUESTIONS:
        account = ask(QUESTIONS[name], rounds=rounds, effort=effort, progress=tell)
        accounts.append(account)
        print(f"{as_table(account)}\n", flush=True)
    print(f"Medians of {rounds} round(s), in brackets as a multiple of the first row's; * misses the target, for ours.")
    if options.json is not None:
        options.json.write_text(json.dumps(report(accounts, rounds, effort), indent=2) + "\n")
    failed = any(outcome.status == "failed" for account in accounts for outcome in account.outcomes.values())
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description="What definable costs, next to its peers.")
    made.add_argument(
        "questions",
        nargs="*",
        type=known,
        metavar="question",
        help=f"of {', '.join(QUESTIONS)}; all when none is named",
    )
    made.add_argument("--rounds", type=positive, metavar="N", help=f"default: {ROUNDS}, with --quick {ROUNDS_QUICK}")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every round's numbers there")
    made.add_argument(
        "--quick", dest="effort", action="store_const", const=QUICK.name, default=FULL.name, help="small counts"
    )
    made.add_argument("--effort", choices=EFFORTS, help=argparse.SUPPRESS)
    return made


def known(name: str) -> str:
    """A question's name.

    Raises:
        argparse.ArgumentTypeError: There is no such question.
    """
    if name not in QUESTIONS:
        raise argparse.ArgumentTypeError(f"there is no question {name!r}, there is {', '.join(QUESTIONS)}")
    return name


def positive(text: str) -> int:
    """A number of rounds.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds: 1 or more")
    return int(text)


def report(accounts: Iterable[Account], rounds: int, effort: Effort) -> Mapping[str, Any]:
    """What `--json` writes."""
    accounts = list(accounts)
    needed = sorted({name for account in accounts for contender in account.contenders for name in contender.needs})
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "versions": {name: installed_version(name) for name in needed},
        "rounds": rounds,
        "effort": effort.name,
        "questions": {account.question.name: account.to_json() for account in accounts},
    }


def tell(line: str) -> None:
    """Show what is being done, where somebody watches."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
