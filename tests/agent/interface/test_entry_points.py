"""Interfaces of other packages are found by the names of their entry points, and so are our own."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from definable.agent import Agent
from definable.agent.interface import BaseInterface
from definable.errors import ConfigurationError

INSTALLED = """\
from definable.agent.interface import BaseInterface

class Lines(BaseInterface):
    def __init__(self, port=4000):
        super().__init__()
        self.port = port

    async def receive(self, accept): ...
    async def send(self, message, response): ...
"""


@pytest.fixture
def lines_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package as pip installs it, with one interface, one of whose module is missing, and one that is none."""
    metadata = tmp_path / "lines_chat-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lines-chat\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[definable.interfaces]\nlines = lines_chat:Lines\ngone = no_such_module:Gone\nnone = builtins:dict\n"
    )
    (tmp_path / "lines_chat.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("lines_package")
def test_an_installed_interface_is_added_by_its_name_and_gets_the_settings() -> None:
    agent = Agent("offline").add_interface("lines", port=5000)
    (interface,) = agent.interfaces
    assert isinstance(interface, BaseInterface) and interface.port == 5000


@pytest.mark.usefixtures("lines_package")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pigeon", r"no interface 'pigeon' .*: installed: .*lines"),
        ("gone", r"'gone' \(no_such_module:Gone\) fails to load: No module named"),
        ("none", "{} is no interface"),
    ],
)
def test_a_name_that_leads_to_no_interface_is_refused_in_words(name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Agent("offline").add_interface(name)


def test_serve_shows_the_way_to_an_interface_by_name_and_settings_need_a_name() -> None:
    agent = Agent("offline")
    with pytest.raises(ConfigurationError, match=r"by its name, agent.add_interface\('lines', ...\)"):
        agent.serve("lines")  # pyright: ignore[reportArgumentType]

    class Mute(BaseInterface):
        async def receive(self, accept: object) -> None: ...
        async def send(self, message: object, response: object) -> None: ...

    with pytest.raises(ConfigurationError, match="settings go with a name"):
        agent.add_interface(Mute(), port=4000)


def test_our_own_are_named_in_the_same_group() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    ours = project["entry-points"]["definable.interfaces"]
    for name, value in ours.items():
        interface = EntryPoint(name, value, "definable.interfaces").load()
        assert issubclass(interface, BaseInterface) and interface.config_type.platform == name
    assert set(ours) == {"discord", "slack", "telegram", "web"}
