"""What every command needs: the agent that its command line names, and text that is safe on a terminal.

A program is loaded as `python -m` would; one that ends in a bare `agent.serve(...)` up to there, and the call says what
else it wants served. Its traceback is without the frames of those who loaded it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.machinery import ModuleSpec
from pathlib import Path
from traceback import FrameSummary, TracebackException
from types import ModuleType
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from definable.agent import Agent
from definable.agent.interface.base import BaseInterface
from definable.agent.options import ServeOptions
from definable.agent.runtime.entry import Backend, ServeReached, loading
from definable.agent.runtime.logging import escaped
from definable.concurrency.event_loop import sole_cause

Function = TypeVar("Function", bound=Callable[..., Any])

OURS = str(Path(__file__).parent)
"""The directory of the command line's own code."""

LOADERS = ("<frozen importlib", "<frozen runpy")


def user_traceback(error: BaseException) -> str:
    """The formatted traceback, causes included, less the frames of the import system and of the command line."""
    trace = TracebackException.from_exception(error)
    for part in chain(trace):
        part.stack[:] = [frame for frame in part.stack if not is_foreign(frame)]
    return "".join(trace.format())


def chain(trace: TracebackException | None) -> Iterator[TracebackException]:
    """An exception, its causes and contexts, and the members of its groups."""
    if trace is None:
        return
    yield trace
    yield from chain(trace.__cause__)
    yield from chain(trace.__context__)
    for member in trace.exceptions or ():
        yield from chain(member)


def is_foreign(frame: FrameSummary) -> bool:
    """Whether a frame is none of the user's or of what the user calls."""
    return frame.filename.startswith((*LOADERS, OURS, str(Path(click.__file__).parent)))


class TargetError(click.ClickException):
    """What was named cannot be had; exits with status 2, as for every wrong command line."""

    exit_code = 2


class ProgramError(click.ClickException):
    """The program that was named fails; its own traceback has the words."""

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


@dataclass(frozen=True, slots=True)
class Target:
    """An agent, and how its program would have it served."""

    agent: Agent
    module: str
    interfaces: Sequence[BaseInterface] = ()
    backend: Backend | None = None
    """None: the program does not say."""
    options: ServeOptions = field(default_factory=ServeOptions)


def load_target(text: str) -> Target:
    """The agent that a command line names.

    Args:
        text: `module:agent`, `path/app.py:agent`, or one of the two without the agent where there is exactly one.

    Raises:
        TargetError: There is no such module, file or attribute, or it is no agent; the message says what there is.
        ProgramError: The program itself fails; the message is its traceback.
    """
    source, _, attribute = text.partition(":")
    if not source or text.endswith(":"):
        raise TargetError(f"{text!r}: name a module or a file and the agent in it, such as app:agent or app.py:agent")
    spec = file_spec(source) if is_path(source) else module_spec(source)
    reached = execute(spec)
    module = sys.modules[spec.name]
    agent = find_agent(module, attribute, source) if attribute or reached is None else reached.agent
    if reached is None or reached.agent is not agent:
        return Target(agent, spec.name)
    return Target(agent, spec.name, reached.interfaces, reached.backend, reached.options)


def program_directory(text: str) -> Path:
    """Where the program lies that a command line names, without loading it: the current directory for a module."""
    source = text.partition(":")[0]
    return Path(source).resolve().parent if is_path(source) else Path.cwd()


def is_path(source: str) -> bool:
    """Whether a file is meant, rather than a module."""
    return source.endswith(".py") or "/" in source or "\\" in source


def file_spec(source: str) -> ModuleSpec:
    """The module that a file is: of its package, where it lies in one.

    Raises:
        TargetError: There is no such file.
    """
    path = Path(source).resolve()
    if path.is_dir():
        raise TargetError(f"{source} is a directory: name the Python file in it ({found_files(path)})")
    if not path.is_file():
        nearby = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise TargetError(f"there is no file {source}{did_you_mean(path.name, nearby)}")
    root, names = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, names = root.parent, [root.name, *names]
    put_first(root)
    name = ".".join(names)
    if len(names) > 1:
        return module_spec(name)
    if name in sys.modules or name in sys.stdlib_module_names:  # a file of yours may be named as a module of another's
        name = f"{name}_program"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{source} is no Python file")
    return spec


def module_spec(name: str) -> ModuleSpec:
    """A module by its name, the current directory first.

    Raises:
        TargetError: There is no such module.
        ProgramError: A package that it lies in fails.
    """
    put_first(Path.cwd())
    spec: ModuleSpec | None = None
    token = loading.set(True)
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise failed(name, error) from None
    except (ValueError, ImportError) as error:
        raise TargetError(f"{name!r} is no module: {error}") from None
    except (Exception, ServeReached) as error:
        raise failed(name, error) from None
    finally:
        loading.reset(token)
    if spec is None or spec.loader is None:
        here = Path.cwd()
        nearby = [path.stem for path in here.glob("*.py")] + [path.parent.name for path in here.glob("*/__init__.py")]
        raise TargetError(f"there is no module {name!r}{did_you_mean(name, nearby)}; here is {found_files(here)}")
    return spec


def execute(spec: ModuleSpec) -> ServeReached | None:
    """Run a module up to its `serve`, if it has one.

    Raises:
        ProgramError: It fails.
    """
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    token = loading.set(True)
    try:
        spec.loader.exec_module(module)
    except ServeReached as reached:
        return reached
    except BaseExceptionGroup as group:
        error = sole_cause(group)
        if isinstance(error, ServeReached):  # `aserve` in a task group of the program's
            return error
        raise failed(spec.name, group) from None
    except Exception as error:
        raise failed(spec.name, error) from None
    except SystemExit as error:
        raise TargetError(f"{spec.name} ended itself while it was loaded: sys.exit({error.code!r})") from None
    finally:
        loading.reset(token)
    return None


def find_agent(module: ModuleType, attribute: str, source: str) -> Agent:
    """The agent of that name, or the only one.

    Raises:
        TargetError: There is none of that name, none at all, or more than one.
    """
    agents = {name: value for name, value in vars(module).items() if isinstance(value, Agent)}
    if not attribute:
        if len(set(agents.values())) == 1:
            return next(iter(agents.values()))
        if not agents:
            raise TargetError(f"{source} has no agent: an Agent(...) that is a variable of the module is needed")
        names = ", ".join(f"{source}:{name}" for name in agents)
        raise TargetError(f"{source} has {len(agents)} agents: name one of {names}")
    value: Any = module
    for name in attribute.split("."):
        if not hasattr(value, name):
            known = list(agents) if value is module and agents else [n for n in dir(value) if not n.startswith("_")]
            there = f"; its agents are {', '.join(agents)}" if agents else "; it has no agent"
            raise TargetError(f"{source} has no {attribute!r}{did_you_mean(name, known)}{there}")
        value = getattr(value, name)
    if not isinstance(value, Agent):
        raise TargetError(f"{source}:{attribute} is no Agent but {described(value)}")
    return value


def described(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, type):
        return f"the class {value.__name__}: make one, `agent = {value.__name__}(...)`"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    if callable(value):
        name = getattr(value, "__name__", value)
        return f"the function {name}: call it in the module, `agent = {name}()`, and name that"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A guess at what was meant; empty when there is none."""
    matches = get_close_matches(name, known, n=1)
    return f", did you mean {matches[0]}?" if matches else ""


def found_files(directory: Path) -> str:
    """The Python files of a directory, a few of them."""
    names = sorted(path.name for path in directory.glob("*.py"))
    if not names:
        return f"no Python file in {directory}"
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def put_first(directory: Path) -> None:
    """Have modules be found there first, as `python -m` and `python file.py` do."""
    entry = str(directory)
    if sys.path[0] != entry:
        sys.path.insert(0, entry)


def failed(name: str, error: BaseException) -> ProgramError:
    """The program's own failure, in its own words."""
    return ProgramError(f"{user_traceback(error)}Error: {name} cannot be loaded: its own code fails, see above")


BACKENDS = click.Choice(["asyncio", "trio"])


class _AgentParameter(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - generic from click 8.5 on
    """`module:agent` or a file; completes to files."""

    name = "agent"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell, which knows the files."""
        return [CompletionItem(incomplete, type="file")]


def agent_argument(function: Function) -> Function:
    """The argument that names an agent."""
    return click.argument("target", metavar="AGENT", type=_AgentParameter())(function)


def load_agent(target: str) -> Agent:
    """The agent that the argument names."""
    return load_target(target).agent


def single_line(text: str) -> str:
    """A text on one line, whatever is in it; nothing in it can move the cursor or colour the screen."""
    return escaped(" ".join(text.split("\n")))


def harmless(text: str) -> str:
    """A text for a terminal, its lines and tabs kept, without what could move the cursor or colour the screen."""
    return "\n".join("\t".join(map(escaped, line.split("\t"))) for line in text.split("\n"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    cells = [list(head), *[[escaped(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
