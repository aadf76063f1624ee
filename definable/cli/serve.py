"""`definable serve`: an agent, served as its program and the command line say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeAlias, cast

import click

from definable.agent.options import ServeOptions
from definable.agent.runtime.dev.child import is_child
from definable.agent.runtime.entry import Backend
from definable.agent.runtime.logging import LEVELS, LogFormat, show_logs
from definable.agent.runtime.settings import Option, ServeSettings, options
from definable.errors import DefinableError

from .target import BACKENDS, Target, agent_argument, load_target, program_directory

Command: TypeAlias = Callable[..., Any]


def serve_options(command: Command) -> Command:
    """Have a command take the options of `serve`; what is not given is left to the program."""
    for name, known in reversed(options().items()):
        if known.help is not None:
            flag = known.flag or f"--{name.replace('_', '-')}"
            made = click.option(flag, name, help=known.help, metavar=known.metavar, **parameter_of(name, known))
            command = made(command)
    return command


def parameter_of(name: str, known: Option) -> dict[str, Any]:
    """How the command line takes an option of a default of this type."""
    default = next(each.default for each in fields(ServeSettings) if each.name == name)
    if isinstance(default, bool) or known.flag == "--server/--no-server":
        return {"is_flag": True, "default": None}
    if isinstance(default, tuple):
        return {"multiple": True}
    if known.is_file:
        return {"type": click.Path(exists=True, dir_okay=False)}
    if known.maximum is not None:
        return {"type": click.IntRange(known.minimum, known.maximum)}
    return {"type": int if known.minimum is not None else type(default) if default is not None else str}


@click.command(short_help="Serve an agent until a signal.")
@agent_argument
@serve_options
@click.option("--backend", type=BACKENDS, help="The event loop; asyncio unless set.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Lines for people (unless set), or JSON.")
@click.option("--log-level", type=click.Choice(LEVELS), help="The lowest level that is logged; info unless set.")
def serve(
    target: str, backend: Backend | None, log_format: LogFormat | None, log_level: str | None, **chosen: Any
) -> None:
    """Serve AGENT until a signal: HTTP, webhooks, cron, events and interfaces.

    What the program itself gives to `agent.serve(...)` holds unless an option here says otherwise. The first Ctrl-C
    finishes what was accepted, the second cuts it off.

    \b
    Examples:
      definable serve app:agent --port 9000
      definable serve path/to/app.py --dev
    """
    given = cast("ServeOptions", {name: value for name, value in chosen.items() if value not in (None, ())})
    try:
        settings = ServeSettings(**given)
        if given.get("dev") and not is_child() and os.name == "posix":
            from definable.agent.runtime.dev.reload import serve_and_reload  # loads watchfiles

            show_logs(log_format, log_level)
            serve_and_reload(settings, program=program_directory(target))
            return
        loaded = load_target(target)
        show_logs(log_format, log_level, loaded.module.partition(".")[0])
        serve_loaded(loaded, backend, given)
    except (DefinableError, OSError) as error:
        raise click.ClickException(str(error)) from error


def serve_loaded(loaded: Target, backend: Backend | None, options: ServeOptions) -> None:
    """Serve as the program says, and above that as the command line says."""
    merged = cast("ServeOptions", {**loaded.options, **options})
    loaded.agent.serve(*loaded.interfaces, backend=backend or loaded.backend or "asyncio", **merged)
