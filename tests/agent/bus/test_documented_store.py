"""The bus that `docs/extending.md` shows does what every bus does; the page's way to run these tests over it works."""

import re
from pathlib import Path
from typing import Any

import pytest
from agent.bus.test_bus_contract import *  # noqa: F403 - the page says so

from definable.agent.bus import EventBus

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"


def documented_store() -> dict[str, Any]:
    """The names of the program without its end, which serves."""
    [program] = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "DictBus" in block
    ]
    names: dict[str, Any] = {}
    exec(program.partition("\n\n\nrows:")[0], names)
    return names


@pytest.fixture
def bus() -> EventBus:
    """In place of the suite's own fixture of that name."""
    return documented_store()["DictBus"]({})
