"""The house: imports go in one direction, heavy parts load late, backends are named only where they differ."""

import ast
import importlib
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
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
        "definable.agent.run.limits",
        "definable.agent.run.output",
        "definable.agent.run.telemetry",
        "definable.agent.run.telemetry_span",
        "definable.agent.arguments",
        "definable.agent.options",
        "definable.agent.tools",
        "definable.agent.session",
        "definable.agent.bus",
        "definable.agent.auth",
        "definable.agent.trigger",
        "definable.agent.work",
    ],
    ["definable.agent.run"],
    ["definable.agent.parts"],
    ["definable.agent.agent"],
    ["definable.agent.interface"],
    ["definable.agent.runtime"],
    ["definable.testing", "definable.cli", "definable.__main__"],
]
"""Left never imports right: a module may import from its own layer and from those before it."""

HEAVY = [
    "openai",
    "anthropic",
    "mcp",
    "pydantic_ai",
    "agents",
    "langchain_core",
    "pydantic",
    "quart",
    "hypercorn",
    "croniter",
    "watchfiles",
    "httpx2",
    "websockets",
    "coredis",
    "psycopg",
    "jwt",
    "opentelemetry",
]

FEATURES = (
    "jwt",
    "telegram",
    "discord",
    "slack",
    "socks",
    "web",
    "uvloop",
    "redis",
    "postgres",
    "otel",
    "anthropic",
    "mcp",
)
"""The extras that a user installs."""

ROOMS = {
    "definable.agent.interface": [
        ["config", "errors", "identity", "sessions", "splitting"],
        ["message"],
        [
            "chat_sessions",
            "hooks",
            "http_client",
            "markdown",
            "message_json",
            "rate_limit",
            "rich_text",
            "streamed_reply",
        ],
        ["transcriber"],
        ["rendering", "websocket"],
        ["base"],
        ["admission"],
        ["pipeline"],
        ["telegram", "discord", "slack", "web"],
    ],
    "definable.agent.runtime": [
        ["concurrency_limit", "lifespan", "logging", "run_log", "shutdown", "signals", "triggers"],
        ["cron_source"],
        ["banner", "cron", "http.body", "http.forwarded"],
        ["http.request"],
        ["http.auth", "http.browsers"],
        ["settings"],
        ["runs"],
        ["dispatch"],
        ["ingress"],
        ["workers", "http"],
        ["chat_dispatcher"],
        ["message_queue"],
        ["message_ingress"],
        ["supervisor"],
        ["served"],
        ["runtime"],
        ["dev"],
        ["entry"],
    ],
}
"""Within a room too a module imports from layers before its own alone; a name stands for all that is below it."""

SERVE_EDGE = ("definable.agent.agent", "definable.agent.runtime.entry")
"""`Agent.serve` and its sisters: the one import, in a function, of something to the right."""

BACKEND_MODULES = {
    "definable.concurrency.asyncio_thread",
    "definable.concurrency.containment_asyncio",
    "definable.concurrency.containment_trio",
    "definable.concurrency.event_loop",
    "definable.server.asyncio_stream",
    "definable.server.trio_stream",
    "definable.testing.virtual",
}
"""All that import a backend by name."""


@cache
def modules() -> Sequence[tuple[str, Path, ast.Module]]:
    return [
        (".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"), path, tree)
        for path in sorted(PACKAGE.rglob("*.py"))
        for tree in [ast.parse(path.read_text())]
    ]


def layer_of(module: str) -> int | None:
    best: tuple[int, int] | None = None
    for index, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(f"{name}.")) and (best is None or len(name) > best[0]):
                best = (len(name), index)
    return None if best is None else best[1]


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that are carried out, at load or when a function is called: not those for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from statements(child)


def imports() -> Iterator[tuple[str, str]]:
    """Who imports whom: pairs of this package's modules."""
    known = {name: path for name, path, _ in modules()}
    for name, path, tree in modules():
        for node in statements(tree):
            for target in targets(name, node, is_package=path.name == "__init__.py"):
                module = target if target in known else target.rpartition(".")[0]
                if module in known and module != name:
                    yield name, module


def targets(name: str, node: ast.Import | ast.ImportFrom, *, is_package: bool) -> list[str]:
    """The whole names of what a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    package = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
    base = ".".join([*package, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def place_in(room: str, module: str) -> tuple[int, str] | None:
    """The layer of a room's module, and the entry that it stands under; None for the room's own `__init__`."""
    entries = [
        (len(entry), index, entry)
        for index, layer in enumerate(ROOMS[room])
        for entry in layer
        if f"{module}.".startswith(f"{room}.{entry}.")
    ]
    return max(entries)[1:] if entries else None


def circles(edges: set[tuple[str, str]]) -> list[str]:
    """The modules in circles, or between two: what is left without those that import, or are imported by, no other."""
    while True:
        importing, imported = {here for here, _ in edges}, {there for _, there in edges}
        kept = {(here, there) for here, there in edges if here in imported and there in importing}
        if kept == edges:
            return sorted(importing)
        edges = kept


def foreign_names(node: ast.AST) -> list[str]:
    """What a statement imports by its whole name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def is_prose(file: str | None) -> bool:
    """Whether a module is nothing but its docstring."""
    assert file is not None
    return len(ast.parse(Path(file).read_text()).body) == 1


def distribution(requirement: str) -> str:
    """The name of what is required, as the package index compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def test_every_module_has_a_layer() -> None:
    packages = {"definable", "definable.agent"}
    assert [name for name, _, _ in modules() if name not in packages and layer_of(name) is None] == []


def test_left_never_imports_right() -> None:
    wrong = [
        f"{name} -> {imported}"
        for name, imported in imports()
        if (name, imported) != SERVE_EDGE
        and (here := layer_of(name)) is not None
        and (there := layer_of(imported)) is not None
        and there > here
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_of_a_room_has_a_layer(room: str) -> None:
    names = [name for name, _, _ in modules() if name.startswith(f"{room}.")]
    assert [name for name in names if place_in(room, name) is None] == []


@pytest.mark.parametrize("room", ROOMS)
def test_within_a_room_a_module_imports_from_earlier_layers_alone(room: str) -> None:
    wrong = [
        f"{name} -> {imported}"
        for name, imported in imports()
        if (here := place_in(room, name)) is not None
        and (there := place_in(room, imported)) is not None
        and not (there[0] < here[0] or there == here)
    ]
    assert wrong == []


def test_no_circle_of_imports_but_the_one_of_serve() -> None:
    edges = set(imports())
    assert SERVE_EDGE in edges
    assert circles(edges - {SERVE_EDGE}) == []


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        ({("a", "b"), ("b", "c"), ("a", "c")}, []),
        ({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")}, ["b", "c"]),
    ],
)
def test_a_circle_would_be_found(edges: set[tuple[str, str]], found: list[str]) -> None:
    assert circles(edges) == found


def test_the_session_service_alone_loads_and_saves_sessions() -> None:
    """Whoever else did would overwrite what a run says in the session at the same time."""
    stores = re.compile(r"(^|[._])(sessions|store)$")
    wrong = [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for name, _, tree in modules()
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
    naming = {
        name
        for name, _, tree in modules()
        for node in ast.walk(tree)
        for imported in foreign_names(node)
        if imported.partition(".")[0] in ("asyncio", "trio")
    }
    assert naming == BACKEND_MODULES


def test_every_logger_of_ours_is_one_whose_calls_raise_nothing() -> None:
    # Loggers by these names; what configures logging names them too, and writes nothing.
    made = re.compile(r"[lL]ogg?(?:er)?\b.*\blogging\.getLogger\((?:__name__|\"definable[.\w]*\")\)")
    found = [
        module for module, path, _ in modules() if made.search(path.read_text()) and "runtime.logging" not in module
    ]
    assert found == []


def test_the_server_could_be_released_alone() -> None:
    allowed = ("definable.server", "definable.concurrency", "definable.errors")
    for name, path, tree in modules():
        if name.startswith("definable.server"):
            assert not re.search(r"\bagents?\b", path.read_text(), re.IGNORECASE), f"{name} speaks of agents"
            for node in ast.walk(tree):
                ours = [each for each in foreign_names(node) if each.startswith("definable")]
                assert all(each.startswith(allowed) for each in ours), f"{name} imports {ours}"


def test_all_names_what_a_package_exports() -> None:
    for info in pkgutil.walk_packages([str(PACKAGE)], "definable."):
        module = importlib.import_module(info.name)
        exported = getattr(module, "__all__", None)
        if exported is None:
            assert not info.ispkg or is_prose(module.__file__), f"{info.name} has no __all__"
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
        name.partition(".")[0] for _, _, tree in modules() for node in ast.walk(tree) for name in foreign_names(node)
    }
    provided = packages_distributions()
    unknown = imported - {"definable", *sys.stdlib_module_names}
    missing = {name for name in unknown if not required & {distribution(it) for it in provided[name]}}
    # Which pydantic brings in its own version; the host of our plugin; frameworks whose agents users hand in.
    assert missing == {"pydantic_core", "pytest", "pydantic_ai", "agents", "langchain_core"}
