"""Tests drive public names; what they import besides is a name of the room that they test, or has its reason here.

Policy is pure and tested without what runs it: `tests/agent/bus` may import modules of `definable.agent.bus`, and so on
for each room. A test elsewhere that imports them breaks when the room is rebuilt: it needs an entry, and its reason.
"""

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import definable

TESTS = Path(__file__).parent

PUBLIC = {
    "definable",
    "definable.agent",
    "definable.agent.auth",
    "definable.agent.bus",
    "definable.agent.interface",
    "definable.agent.runtime",
    "definable.agent.session",
    "definable.agent.trigger",
    "definable.cli",
    "definable.errors",
    "definable.model",
    "definable.model.adapters",
    "definable.server",
    "definable.storage",
    "definable.testing",
}

FOREIGN = {
    "definable.agent.auth.providers": "the user id of a key, which a caller's sessions bear",
    "definable.agent.work": "what the work tracker makes of a piece of work, seen from the bus",
    "definable.agent.interface.message": "how a message ended",
    "definable.agent.interface.message_json": "a message as the bus keeps it",
    "definable.agent.interface.pipeline": "what the supervisor builds for an interface",
    "definable.agent.run.output": "events and tool executions",
    "definable.agent.run.context": "`RunRequest`, which the runtime hands to the agent",
    "definable.agent.runtime.dispatch": "the arguments of the original library, as dispatch reads them",
    "definable.agent.runtime.http.response": "the problem that a model's error becomes",
    "definable.agent.runtime.chat_dispatcher": "messages of a chat, queued without a bus",
    "definable.agent.runtime.runs": "the registry that a pipeline's runs stand in",
    "definable.agent.runtime.settings": "options of the source document, as they are read",
    "definable.agent.runtime.supervisor": "a test waits until an interface is up, down or given up",
    "definable.agent.trigger.base": "the type of a handler",
    "definable.agent.trigger.registry": "triggers without an agent",
    "definable.concurrency.backoff": "waits are made short",
    "definable.concurrency.byte_limit": "what a request is made with",
    "definable.concurrency.clock": "the clock of virtual time is set and read",
    "definable.concurrency.rate_limits": "rates of fetches are made large, and limits measured",
    "definable.concurrency.event_loop": "a watchdog watches an event loop",
    "definable.model.message": "messages as session stores keep them",
    "definable.server.problem": "what endpoints raise",
    "definable.storage.postgres_database": "a PostgreSQL that is away, seen by what uses it",
    "definable.storage.redis_address": "how errors name a Redis",
    "definable.storage.redis_link": "a Redis that is away, seen by what uses it",
    "definable.testing.virtual": "virtual time beside real sockets",
    "definable.storage.service_name": "the error of a server that is away, as a bus gets it",
}
"""Internal modules that tests of other rooms import, and why."""

MANY_ROOMS = {
    "agent/runtime/http/test_linear_time.py": "measures every parser that outsiders reach, each by itself",
    "chaos": "drives what misbehaves from the inside",
    "fuzz": "feeds each parser and codec alone",
    "loopback": "has bots whose waits are short",
    "agent/test_accepted_histories.py": "hands what runs leave in sessions to the encoder of requests",
    "agent/runtime/http/test_openapi_answers.py": "makes every document of the API from what it is made of",
}
"""Tests that are about several rooms, and what they do there."""


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Modules of definable that a test imports, each with a name from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("definable") and not node.level:
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "definable")


@functools.cache
def uses() -> list[tuple[Path, str, str]]:
    """Every import of an internal module, with the test's path below `tests`."""
    found: list[tuple[Path, str, str]] = []
    for path in sorted(TESTS.rglob("*.py")):
        for module, name in imported(path):
            if module in PUBLIC:
                continue
            is_package = Path(definable.__file__).parent.joinpath(*module.split(".")[1:]).is_dir()
            found.append((path.relative_to(TESTS), f"{module}.{name}" if is_package else module, name))
    return found


def is_of_its_room(path: Path, module: str) -> bool:
    """Whether a test's folder mirrors the module's room, or a room within it."""
    folders = path.parent.parts
    home = module.split(".")[1:-1]
    if not home:  # definable.json_text, say
        return not folders
    if tuple(home) == ("agent",) or folders == ("agent",):  # modules without a room, and those of runs and tools
        return folders == ("agent",) and (len(home) == 1 or home[1] in ("run", "tools"))
    return folders[: len(home)] == tuple(home) or tuple(home)[: len(folders)] == folders != ()


def is_about_many_rooms(path: Path) -> bool:
    return path.as_posix() in MANY_ROOMS or path.parts[0] in MANY_ROOMS


def test_public_names_come_from_where_users_import_them() -> None:
    homes = {
        id(value): f"{package}.{name}"
        for package in sorted(PUBLIC, key=len)
        for name in getattr(importlib.import_module(package), "__all__", ())
        if callable(value := getattr(importlib.import_module(package), name))
    }
    wrong = [
        f"{path}: {name} of {module} is {home}"
        for path, module, name in uses()
        if (home := homes.get(id(getattr(importlib.import_module(module), name, None)))) is not None
    ]
    assert wrong == []


def test_a_test_imports_internals_of_its_own_room() -> None:
    wrong = [
        f"{path}: {module}.{name}"
        for path, module, name in uses()
        if not is_of_its_room(path, module) and module not in FOREIGN and not is_about_many_rooms(path)
    ]
    assert wrong == []


def test_every_reason_is_needed() -> None:
    foreign = [(path, module) for path, module, _ in uses() if not is_of_its_room(path, module)]
    assert {*FOREIGN} - {module for path, module in foreign if not is_about_many_rooms(path)} == set()
    assert {*MANY_ROOMS} - {name for path, _ in foreign for name in (path.as_posix(), path.parts[0])} == set()
