"""Which files development mode watches, and what it says of those that cannot be compiled."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from watchfiles import Change

import definable
from definable.agent.runtime.dev.reload import SourceFilter, saved_files, script_directory, syntax_errors, watched_root


def test_what_does_not_compile_is_quoted_and_what_is_gone_is_not_missed(tmp_path: Path) -> None:
    texts = {"good.py": b"x = 1\n", "open.py": b"x = (\n", "null.py": b"x = 1\0\n"}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    said = syntax_errors([tmp_path / name for name in ("gone.py", *texts)])
    assert f'File "{tmp_path / "open.py"}", line 1' in said and "'(' was never closed" in said
    assert "null bytes" in said
    assert "good.py" not in said and "gone.py" not in said
    assert syntax_errors([tmp_path / "good.py", tmp_path / "gone.py"]) == ""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="no annotation may hold a name there")
def test_what_this_library_imports_from_the_future_is_no_law_for_others(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("x: (y := int) = 1\n")
    assert syntax_errors([tmp_path / "app.py"]) == ""


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("app.py", True),
        ("package/module.py", True),
        ("app.txt", False),
        ("app.py.draft", False),
        ("venv/lib/module.py", False),
        ("__pycache__/module.py", False),
        ("build/module.py", False),
        (f"{sys.prefix}/lib/module.py", False),
    ],
)
def test_only_sources_of_the_service_count(tmp_path: Path, path: str, counts: bool) -> None:
    assert SourceFilter()(Change.modified, str(tmp_path / path)) is counts


@pytest.mark.anyio
async def test_saves_of_sources_are_told_until_it_is_stopped(tmp_path: Path) -> None:
    stop, told = anyio.Event(), set[str]()
    (tmp_path / "package").mkdir()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group, aclosing(saved_files(tmp_path, stop)) as saved:

            async def save() -> None:
                number = 0
                while "z.py" not in told:  # again, until the watcher has begun
                    number += 1
                    for name in ("notes.txt", "package/a.py", "z.py"):
                        (tmp_path / name).write_text(f"x = {number}\n")
                    await anyio.sleep(0.1)

            group.start_soon(save)
            async for paths in saved:
                assert paths == sorted(paths)
                told |= {path.relative_to(tmp_path).as_posix() for path in paths}
                if "z.py" in told:
                    stop.set()
    assert told == {"package/a.py", "z.py"}


def test_the_directory_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    for program, directory in [
        ("src/app.py", tmp_path / "src"),
        ("", tmp_path),
        (f"{sys.prefix}/bin/definable", tmp_path),
        (definable.__file__, tmp_path),
    ]:
        monkeypatch.setattr(sys, "argv", [program, "/another/argument"])
        assert script_directory() == directory


def test_the_directory_that_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    monkeypatch.chdir(project)
    assert watched_root(project / "src") == project
    assert watched_root(tmp_path) == tmp_path  # the program lies elsewhere
    monkeypatch.setattr(Path, "home", lambda: project)
    assert watched_root(project / "src") == project / "src"
    monkeypatch.setattr(sys, "argv", [str(project / "src" / "app.py")])
    assert watched_root() == project / "src"
