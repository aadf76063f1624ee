"""What `docs/extending.md` shows is small enough to be read at once; that it runs, `test_docs.py` tests."""

import ast
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()

SECTIONS = {section.partition("\n")[0]: section for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}

MOST_LINES = 60
"""Of code, in what the extension itself is: its classes and functions, without the program that tries it."""


def extension(section: str) -> list[str]:
    """The lines of a section's classes and functions, but for `main` and what is registered by a decorator."""
    found = re.search(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    lines = found[1].splitlines()
    parts = [
        node
        for node in ast.parse(found[1]).body
        if isinstance(node, ast.ClassDef)
        or (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "main" and not node.decorator_list
        )
    ]
    spans = [(min([part.lineno, *(each.lineno for each in part.decorator_list)]), part.end_lineno) for part in parts]
    return [line for first, last in spans for line in lines[first - 1 : last] if line.strip()]


def test_every_way_to_extend_it_has_a_section() -> None:
    assert {"A model", "An interface", "A bus store", "An endpoint"} <= {*SECTIONS}


@pytest.mark.parametrize("section", [pytest.param(text, id=name) for name, text in SECTIONS.items()])
def test_an_extension_is_short(section: str) -> None:
    lines = extension(section)
    assert 0 < len(lines) < MOST_LINES, len(lines)
