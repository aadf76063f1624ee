"""`python -m benchmarks.before_and_after REVISION QUESTION`: what changed since a revision, measured in turns.

Each round asks the question in a checkout of the revision, then here: whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from .__main__ import positive

ROOT = Path(__file__).parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print each contender's medians and their ratio.

    Returns:
        The exit status: 1 when nothing could be compared.
    """
    made = argparse.ArgumentParser(prog="python -m benchmarks.before_and_after", description=__doc__)
    made.add_argument("revision", help="a commit, such as edff8d3")
    made.add_argument("question", help="such as webhook")
    made.add_argument("--rounds", type=positive, default=5, metavar="N")
    made.add_argument("--quick", action="store_true", help="small counts")
    options = made.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        before = folder / "before"
        git("worktree", "add", "--detach", str(before), options.revision)
        stack.callback(git, "worktree", "remove", "--force", str(before))
        values: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        for _ in range(options.rounds):
            for side, place in enumerate((before, ROOT)):
                numbers = asked(place, options.question, folder / "numbers.json", quick=options.quick)
                for key, number in numbers.items():
                    values.setdefault(key, ([], []))[side].append(number)
    both = {key: sides for key, sides in values.items() if all(sides)}
    for (contender, column), (old, new) in both.items():
        print(
            f"{contender}, {column}: {median(old):.4g} -> {median(new):.4g} ({median(new) / median(old):.3f}); "
            f"before {min(old):.4g} to {max(old):.4g}, after {min(new):.4g} to {max(new):.4g}"
        )
    return 0 if both else 1


def git(*words: str) -> None:
    """Have git do something in this repository."""
    subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True)


def asked(place: Path, question: str, written: Path, *, quick: bool) -> Mapping[tuple[str, str], float]:
    """One round's numbers in a checkout, by contender and column."""
    words = [sys.executable, "-m", "benchmarks", question, "--rounds", "1", "--json", str(written)]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    subprocess.run(
        [*words, *(["--quick"] if quick else [])], cwd=place, env=environment, stdout=sys.stderr, check=False
    )
    report: Mapping[str, Any] = json.loads(written.read_text())
    contenders: Mapping[str, Any] = report["questions"][question]["contenders"]
    return {
        (name, column): number
        for name, outcome in contenders.items()
        for values in outcome["rounds"]
        for column, number in values.items()
    }


if __name__ == "__main__":
    sys.exit(main())
