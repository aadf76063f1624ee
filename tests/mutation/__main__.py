"""`python -m tests.mutation`: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from .mutants import Mutant, sample
from .rooms import ROOMS, Room
from .trial import SLOWNESS, TEST_LIMIT, Limits, Outcome, copy_of, import_heavy, try_mutant, try_tests

ROOT = Path(__file__).parents[2]


def main() -> int:
    options = parsed_options()
    mutants = (
        survivors(options.again) if options.again else sample(ROOMS[options.room], ROOT, options.sample, options.seed)
    )
    if options.list:
        for mutant in mutants:
            say(f"{mutant}\n{mutant.diff((ROOT / mutant.module).read_text())}")
        return 0
    import_heavy()
    with copy_of(ROOT) as copy, open(options.results, "a") as results:
        rooms = {room_of(mutant): None for mutant in mutants}
        limits = {room: limits_of(room, copy, options.test_limit) for room in rooms}
        outcomes = try_all(mutants, copy, results, limits)
    return 0 if killed_share(outcomes) >= options.at_least else 1


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--room", choices=sorted(ROOMS), default="trigger")
    parser.add_argument("--sample", type=int, default=150, metavar="N", help="how many mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", type=Path, metavar="FILE", help="try the survivors of these results instead")
    parser.add_argument("--results", default="/dev/null", metavar="FILE", help="append a line of JSON for each mutant")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="SHARE", help="fail when less are killed: 0.85")
    parser.add_argument(
        "--test-limit", type=int, default=TEST_LIMIT, metavar="SECONDS", help="that one test may take; more when busy"
    )
    parser.add_argument("--list", action="store_true", help="show the mutants and try none")
    return parser.parse_args()


def survivors(results: Path) -> list[Mutant]:
    """The mutants that survived in a file of results, where the module is still the same."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    mutants = [
        Mutant(**line["mutant"] | {"position": tuple(line["mutant"]["position"])})
        for line in lines
        if line["outcome"] == Outcome.SURVIVED
    ]
    diffs = [line["diff"] for line in lines if line["outcome"] == Outcome.SURVIVED]
    for mutant, diff in zip(mutants, diffs, strict=True):
        if mutant.diff((ROOT / mutant.module).read_text()) != diff:
            sys.exit(f"{mutant.module} has changed since: take a new sample")
    return mutants


def room_of(mutant: Mutant) -> Room:
    return next(room for room in ROOMS.values() if mutant.module in room.modules(ROOT))


def limits_of(room: Room, copy: Path, test_limit: int) -> Limits:
    """How long the tests may take with a mutant; without one they must pass before they can notice anything."""
    _, files = room.test_files(copy, "")
    began = time.monotonic()
    outcome, said = try_tests(copy, files, room.not_selected, Limits(test_limit, math.inf), is_mutated=False)
    if outcome is not Outcome.SURVIVED:
        sys.exit(f"the tests of {room.package} fail without a mutant: {said}")
    return Limits(test_limit, SLOWNESS * (time.monotonic() - began))


def try_all(mutants: Sequence[Mutant], copy: Path, results: TextIO, limits: Mapping[Room, Limits]) -> Counter[Outcome]:
    outcomes: Counter[Outcome] = Counter()
    for number, mutant in enumerate(mutants, 1):
        began = time.monotonic()
        room = room_of(mutant)
        outcome, said = try_mutant(copy, mutant, room, limits[room])
        outcomes[outcome] += 1
        diff = mutant.diff((copy / mutant.module).read_text())
        say(f"{number}/{len(mutants)} {outcome} {mutant} ({time.monotonic() - began:.1f} s) {said}")
        if outcome is Outcome.SURVIVED:
            say(diff)
        line = {"mutant": asdict(mutant), "outcome": outcome, "said": said, "diff": diff}
        results.write(json.dumps(line) + "\n")
        results.flush()
    return outcomes


def killed_share(outcomes: Counter[Outcome]) -> float:
    tried = outcomes.total()
    share = 1 - outcomes[Outcome.SURVIVED] / max(tried, 1)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    say(f"{tried} mutants: {counts}; {share:.1%} killed")
    return share


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
