"""The files, modules and names that docstrings, comments and guides mention exist: a rename reaches the prose too."""

import ast
import builtins
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

FOLDERS = ("definable", "tests", "benchmarks", "examples")

SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

GUIDES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])

FILE = re.compile(r"(?<![\w/.~-])[\w/.-]*\w\.(?:py|lua|md)\b")

QUOTED = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)(?:\([^`]*\))?`")

URL = re.compile(r"https?://\S+")

COMMENT = re.compile(r"(?:^|\s)# .*")

FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)

NOT_OURS = {
    "app.py": "a user's program",
    "path/to/app.py": "a user's program",
    "path/app.py": "a user's program",
    "SKILL.md": "a format of others",
    "discord.py": "a library",
    "reviewer.py": "a user's program",
    "file.py": "a user's program",
    "hypercorn/trio/tcp_server.py": "hypercorn",
    "_backends/_asyncio.py": "anyio",
    "WebhookActor.cpp": "Telegram's server",
    "zconf.h": "zlib",
    "identity.db": "a user's file",
    "Host": "a header of HTTP",
    "pyproject.toml": "of another package",
}
"""What is mentioned and is not in this repository, and whose they are."""

FOREIGN_NAMES = {
    "HTTP": ["Allow", "Authorization", "Date", "Forwarded", "Host", "Location", "Origin", "Upgrade", "_charset_"],
    "JavaScript": ["EventSource", "NaN"],
    "Python": ["BusyResourceError", "InvalidStateError", "Queue", "QueueHandler", "_task_states"],
    "mcp": ["OAuthClientProvider"],
    "trio": ["TrioInternalError"],
    "Starlette and Quart": ["CORSMiddleware", "InternalServerError", "mount"],
    "openai": ["chat", "completions", "create"],
    "Slack's Web API": [
        "apps",
        "connections",
        "getUploadURLExternal",
        "postMessage",
        "replies",
        "setStatus",
        "startStream",
    ],
    "the Telegram Bot API": ["getUpdates", "sendMessage"],
    "the original library": [
        "TriggerExecutor",
        "TriggerResult",
        "_convert_inbound",
        "_stop_receiver",
        "dependencies",
        "reasoning_content",
    ],
}
"""Names that are mentioned and stand in no line of code here, by whose they are."""


@functools.cache
def files() -> set[str]:
    """Every path in the repository, and each of its endings."""
    found: set[str] = set()
    for pattern in ("*.py", "*.lua", "*.md"):
        for folder in (*FOLDERS, "docs"):
            for path in (ROOT / folder).rglob(pattern):
                parts = path.relative_to(ROOT).parts
                found |= {"/".join(parts[start:]) for start in range(len(parts))}
    return found | {path.name for path in ROOT.iterdir()}


@functools.cache
def module(path: Path) -> tuple[set[str], list[tuple[int, str]]]:
    """The names in a module's code; its docstrings and comments, each with its line."""
    text = path.read_text()
    names = set(path.relative_to(ROOT).with_suffix("").parts)
    prose: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        # `Name.id`, `Attribute.attr`, `arg.arg`, `keyword.arg`, `alias.name` and `.asname`, names of definitions.
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                names.update(name.split("."))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose.append((node.lineno, node.value.value))
    comments = ((number, COMMENT.search(line)) for number, line in enumerate(text.splitlines(), 1))
    return names, prose + [(number, comment[0]) for number, comment in comments if comment]


@functools.cache
def identifiers() -> set[str]:
    """Every name in the code: what a mention may mean."""
    foreign = (name for names in FOREIGN_NAMES.values() for name in names)
    return set().union(dir(builtins), foreign, *(module(path)[0] for path in SOURCES))


def mentions() -> Iterator[tuple[str, str]]:
    """Docstrings and comments of all modules, and the guides without their code, each with its place."""
    for path in SOURCES:
        yield from ((f"{path.relative_to(ROOT)}:{line}", text) for line, text in module(path)[1])
    for path in GUIDES:
        yield str(path.relative_to(ROOT)), FENCED.sub("", path.read_text())


def is_mention(word: str) -> bool:
    """Whether a quoted word is a name for sure, and not a value or an argument: a class, private or dotted."""
    return "." in word.strip(".") or re.search(r"[A-Z][a-z]", word) is not None or word.startswith("_")


def test_the_files_that_are_mentioned_exist() -> None:
    wrong = [
        f"{place}: {name}"
        for place, text in mentions()
        for name in FILE.findall(URL.sub("", text))
        if re.sub(r"^(\.\.?/)+", "", name) not in files() and name not in NOT_OURS
    ]
    assert wrong == []


def test_the_names_that_are_mentioned_exist() -> None:
    wrong = [
        f"{place}: {name}"
        for place, text in mentions()
        for name in QUOTED.findall(text)
        if is_mention(name) and name not in NOT_OURS and name not in files() and not FILE.fullmatch(name)
        if not {part for part in name.split(".") if part} <= identifiers()
    ]
    assert wrong == []


def test_a_name_that_is_gone_would_be_found() -> None:
    gone = "Gone" + "Name"
    assert QUOTED.findall(f"See `{gone}.method(x)`.") == [f"{gone}.method"]
    assert FILE.findall("See `no/file.py`, none.md.") == ["no/file.py", "none.md"]
    assert gone not in identifiers() and "runtime/workers.py" in files()
