"""The table of slow tests names tests that exist."""

import ast
from pathlib import Path

from kinds import SLOW, slow_entry

TESTS = Path(__file__).parent


def ids() -> set[str]:
    """Of all test functions, without parameters."""
    return {
        f"tests/{path.relative_to(TESTS)}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_entry_names_tests() -> None:
    used = {slow_entry(test) for test in ids()}
    assert {*SLOW} - used == set()


def test_a_test_is_found_by_the_end_of_its_path() -> None:
    entry = next(iter(SLOW))
    path, _, name = entry.partition("::")
    assert slow_entry(f"tests/somewhere/{path}::{name or 'test_any'}[asyncio-1]") == entry
    assert slow_entry("tests/test_kinds.py::test_every_entry_names_tests") is None
