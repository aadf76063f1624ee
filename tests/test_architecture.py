"""The house: imports go in one direction, heavy parts load late, backends are named only where they differ."""

import ast
import importlib
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import definable

PACKAGE = Path(definable.__file__).parent

LAYERS = [
    [
        "definable.errors",
        "definable.frozen",
        "definable.half_read_body",
        "definable.json_text",
        "definable.lazy_exports",
        "definable.original_library",
    ],
    ["definable.concurrency"],
    ["definable.server", "definable.storage", "definable.model"],
    [
        "definable.agent.run.context",
        "definable.agent.run.output",
        "definable.agent.run.hook",
        "definable.agent.run.telemetry",
        "definable.agent.run.telemetry_span",
        "definable.agent.arguments",
        "definable.agent.random_id",
        "definable.agent.memory_size",
        "definable.agent.options",
        "definable.agent.report",
        "definable.agent.tools",
        "definable.agent.session",
        "definable.agent.bus",
        "definable.agent.auth",
        "definable.agent.trigger",
    ],
    ["definable.agent.run"],
    ["definable.agent.parts"],
    ["definable.agent.agent"],
    ["definable.agent.interface"],
    ["definable.agent.runtime"],
    ["definable.testing", "definable.cli", "definable.__main__"],
]
"""Left never imports right: a module may import from its own layer and from those before it."""

HEAVY = ["openai", "quart", "hypercorn", "croniter", "watchfiles", "httpx2", "websockets", "jwt", "opentelemetry"]

FEATURES = ("jwt", "telegram", "discord", "uvloop", "redis", "otel")
"""The extras that a user installs."""

BACKEND_ROOMS = (
    "definable.concurrency.containment_",
    "definable.agent.runtime.http.quart_app",
    "definable.server",
    "definable.testing",
)
"""Where a backend may be imported by name."""


def modules() -> Iterator[tuple[str, ast.Module, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        yield name, ast.parse(text), text


def layer_of(module: str) -> int | None:
    best: tuple[int, int] | None = None
    for index, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(f"{name}.")) and (best is None or len(name) > best[0]):
                best = (len(name), index)
    return None if best is None else best[1]


def imports(name: str, tree: ast.Module, is_package: bool) -> Iterator[str]:
    """The modules that a module imports when it is loaded: not within functions, not for types alone."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")
            if node.level:
                base = base[: len(base) - node.level + is_package]
                module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            else:
                module = node.module or ""
            yield module
        elif isinstance(node, ast.If | ast.Try):
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
                pending += node.body
            pending += node.orelse
        elif isinstance(node, ast.ClassDef):
            pending += node.body


def foreign_names(node: ast.AST) -> list[str]:
    """What a statement imports by its whole name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def distribution(requirement: str) -> str:
    """The name of what is required, as the package index compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def test_every_module_has_a_layer() -> None:
    packages = {"definable", "definable.agent"}
    assert [name for name, _, _ in modules() if name not in packages and layer_of(name) is None] == []


def test_left_never_imports_right() -> None:
    wrong = [
        f"{name} -> {imported}"
        for name, tree, _ in modules()
        for imported in imports(name, tree, is_package=(PACKAGE.parent / Path(*name.split("."))).is_dir())
        if (here := layer_of(name)) is not None and (there := layer_of(imported)) is not None and there > here
    ]
    assert wrong == []


def test_the_session_service_alone_loads_and_saves_sessions() -> None:
    """Whoever else did would overwrite what a run says in the session at the same time."""
    stores = re.compile(r"(^|[._])(sessions|store)$")
    wrong = [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for name, tree, _ in modules()
        if name != "definable.agent.session.service"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("load", "save", "delete", "find", "point")
        and stores.search(ast.unparse(node.value))
    ]
    # `find` and `point` of a SessionService lead to a chat's conversation and touch no session.
    allowed = {"sessions.find", "sessions.point"}
    assert [line for line in wrong if line.rpartition(" ")[2] not in allowed] == []


def test_backends_are_imported_by_name_only_where_they_differ() -> None:
    wrong = [
        f"{name}:{number}: {line.strip()}"
        for name, _, text in modules()
        if not name.startswith(BACKEND_ROOMS)
        for number, line in enumerate(text.splitlines(), 1)
        if re.match(r"\s*(import|from) (asyncio|trio)\b", line) and "#" not in line
    ]
    assert wrong == []


def test_all_names_what_a_package_exports() -> None:
    for info in pkgutil.walk_packages([str(PACKAGE)], "definable."):
        module = importlib.import_module(info.name)
        exported = getattr(module, "__all__", None)
        if exported is None:
            assert not info.ispkg, f"{info.name} has no __all__"
            continue
        assert len(exported) == len(set(exported)), info.name
        for name in exported:
            assert hasattr(module, name), f"{info.name}.{name}"


@pytest.mark.parametrize("statement", ["import definable.agent", "from definable.agent import Agent; Agent('offline')"])
def test_heavy_parts_load_when_first_used(statement: str) -> None:
    code = f"import sys; {statement}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_what_is_imported_is_required() -> None:
    """What comes only because something else requires it comes in any version, or one day not at all."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    features = [extra for name, extra in project["optional-dependencies"].items() if name in FEATURES]
    required = {distribution(line) for line in itertools.chain(project["dependencies"], *features)}
    imported = {
        name.partition(".")[0] for _, tree, _ in modules() for node in ast.walk(tree) for name in foreign_names(node)
    }
    provided = packages_distributions()
    unknown = imported - {"definable", *sys.stdlib_module_names}
    missing = {name for name in unknown if not required & {distribution(it) for it in provided[name]}}
    assert missing == {"pydantic_core", "pytest"}  # which pydantic brings in its own version; the host of our plugin
