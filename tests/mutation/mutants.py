"""Which changes there are, and which of them are tried; the changes themselves are cosmic-ray's."""

from __future__ import annotations

import ast
import difflib
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from .exclusions import SAME_FOR_SINGLETONS, Position, excluded
from .rooms import Room


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module."""

    module: str
    operator: str
    occurrence: int
    """Which of the operator's places in the module."""
    position: Position

    def __str__(self) -> str:
        return f"{self.module}:{self.position[0]} {self.operator.removeprefix('core/')}"

    def source(self, original: str) -> str:
        """The module with the change."""
        mutated: str = mutate_code(original, get_operator(self.operator)(), self.occurrence)
        return mutated

    def diff(self, original: str) -> str:
        """What changes, with a little around it."""
        lines = difflib.unified_diff(original.splitlines(), self.source(original).splitlines(), lineterm="", n=2)
        return "\n".join(list(lines)[2:])


def mutants_of(module: str, source: str) -> Iterator[Mutant]:
    """All mutants of a module but the excluded."""
    spans = excluded(source)
    tree = get_ast(source)
    for name in operator_names():
        operator = get_operator(name)
        if name in SAME_FOR_SINGLETONS or operator.arguments():
            continue
        positions = (start for node in ast_nodes(tree) for start, _ in operator().mutation_positions(node))
        for occurrence, position in enumerate(positions):
            if not any(position in span for span in spans):
                yield Mutant(module, name, occurrence, position)


def sample(room: Room, root: Path, size: int, seed: int) -> list[Mutant]:
    """So many mutants of a room: of places drawn at random one each, and of all places again if there are too few."""
    chance = random.Random(seed)
    sources = {module: (root / module).read_text() for module in room.modules(root)}
    places: dict[tuple[str, Position], list[Mutant]] = {}
    for module, source in sources.items():
        for mutant in mutants_of(module, source):
            places.setdefault((mutant.module, mutant.position), []).append(mutant)
    drawn: list[Mutant] = []
    while places and len(drawn) < size:
        for place in chance.sample(sorted(places), len(places)):
            mutant = places[place].pop(chance.randrange(len(places[place])))
            if not places[place]:
                del places[place]
            if len(drawn) < size and is_another_program(mutant, sources[mutant.module]):
                drawn.append(mutant)
    return drawn


def is_another_program(mutant: Mutant, source: str) -> bool:
    """Whether the change can be compiled, and is one."""
    try:
        tree = ast.parse(mutant.source(source))
        with warnings.catch_warnings(action="error"):  # `1 is x`: a warning alone would fail every test
            compile(tree, mutant.module, "exec")
    except (SyntaxError, AttributeError):  # the tool fails at `except (a.b, c.d)`
        return False
    return ast.dump(tree) != ast.dump(ast.parse(source))
