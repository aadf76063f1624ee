"""`python tests/serve_options.py`: write what is made from the list of serve's options.

The keywords that type checkers know (`definable/agent/options.py`) and the table of `docs/options.md`.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from definable.agent.runtime import settings

ROOT = Path(__file__).parents[1]
KEYWORDS = ROOT / "definable" / "agent" / "options.py"
GUIDE = ROOT / "docs" / "options.md"

KEYWORDS_HEAD = '''"""The keywords of `serve`, `aserve`, `running` and `asgi`, for type checkers.

Made by `python tests/serve_options.py` from `agent/runtime/settings.py`: change that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict


class ServeOptions(TypedDict, total=False):
    """How an agent is served. All are optional."""

'''

GUIDE_HEAD = """\
# Options of `serve`

<!-- Made by `python tests/serve_options.py` from `definable/agent/runtime/settings.py`. -->

`serve`, `aserve`, `running` and `asgi` take them as keywords, `definable serve` those with a flag on its command line.

| Option | Flag | |
|---|---|---|
"""


def documented() -> list[tuple[str, str, str]]:
    """The options: name, type and docstring, as the list has them."""
    source = inspect.getsource(settings)
    [listed] = [node for node in ast.parse(source).body if getattr(node, "name", "") == "ServeSettings"]
    assert isinstance(listed, ast.ClassDef)
    found: list[tuple[str, str, str]] = []
    for node, doc in zip(listed.body, listed.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(doc, ast.Expr):
            text = ast.get_source_segment(source, doc)
            found.append((ast.unparse(node.target), ast.unparse(node.annotation), text or ""))
    return [each for each in found if each[0] in settings.options()]


def keywords() -> str:
    """The text of `definable/agent/options.py`."""
    return KEYWORDS_HEAD + "".join(f"    {name}: {kind}\n    {text}\n" for name, kind, text in documented())


def guide() -> str:
    """The text of `docs/options.md`."""
    rows: list[str] = []
    for name, _, text in documented():
        known = settings.options()[name]
        flag = "" if known.help is None else f"`{known.flag or '--' + name.replace('_', '-')}`"
        said = re.sub(r"\s+", " ", text.strip('"'))
        rows.append(f"| `{name}` | {flag} | {said} |\n")
    return GUIDE_HEAD + "".join(rows)


if __name__ == "__main__":
    KEYWORDS.write_text(keywords())
    GUIDE.write_text(guide())
