"""The command group, and its first two commands: `definable serve` and `definable run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, TypeAlias, cast

import anyio
import click
from click.shell_completion import get_completion_class

from definable import __version__
from definable.agent import Agent
from definable.agent.options import ServeOptions
from definable.agent.run.output import RunEnded, TextDelta, ToolCallEnded, ToolCallStarted
from definable.agent.runtime.dev.child import is_child
from definable.agent.runtime.entry import Backend
from definable.agent.runtime.logging import LEVELS, LogFormat, show_logs
from definable.agent.runtime.settings import Option, ServeSettings, options
from definable.concurrency.event_loop import plain_errors
from definable.errors import DefinableError
from definable.json_text import json_bytes

from .demo import demo, init
from .target import BACKENDS, Target, agent_argument, harmless, load_target, program_directory, single_line
from .triggers import deadletters, emit, triggers

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
    if known.reads is not None:
        return {"type": known.reads}
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


CLOSE_TIMEOUT = 5.0
"""Seconds that closing the model's connections may take."""


@click.command(short_help="Run an agent once and print its reply.")
@agent_argument
@click.argument("text", required=False)
@click.option("--session", "session_id", help="The conversation to go on with, in the agent's session store.")
@click.option("--user", "user_id", help="Whose run it is; a session belongs to the user who began it.")
@click.option("--backend", type=BACKENDS, default="asyncio", show_default=True, help="The event loop.")
@click.option("--quiet", is_flag=True, help="The reply alone: no tool calls.")
def run(
    target: str, text: str | None, session_id: str | None, user_id: str | None, backend: Backend, quiet: bool
) -> None:
    """Run AGENT once with TEXT, and print its reply as it comes; tool calls go to standard error.

    Without TEXT, or with "-", the input is read from standard input. Exits with status 1 when the run fails.

    \b
    Examples:
      definable run app:agent "What is the weather in Oslo?"
      git diff | definable run reviewer.py
    """
    agent = load_target(target).agent
    show_logs(level="warning")
    said = standard_input() if text is None or text == "-" else text
    if not said.strip():
        raise click.UsageError("the input is empty: give TEXT, or pipe it in")
    try:
        anyio.run(partial(print_run, agent, said, session_id, user_id, quiet), backend=backend)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # `| head`: click ends quietly
        raise
    except (DefinableError, OSError) as error:
        raise click.ClickException(single_line(f"{type(error).__name__}: {error}")) from error
    except Exception as error:  # instructions and hooks are the user's code
        raise click.ClickException(single_line(f"the run failed: {type(error).__name__}: {error}")) from error


def standard_input() -> str:
    """All that is piped or typed in."""
    if sys.stdin.isatty():
        click.echo("Reading the input from the terminal; end it with Ctrl-D.", err=True)
    return sys.stdin.read()


async def print_run(agent: Agent, text: str, session_id: str | None, user_id: str | None, quiet: bool) -> None:
    """Make the run, printing what happens in it."""
    whole = agent.runner.output_type is not None  # a reply that does not fit is asked for again
    with plain_errors():
        async with agent.sessions.open():
            try:
                async with agent.arun_stream(text, session_id=session_id, user_id=user_id) as events:
                    async for event in events:
                        show(event, whole=whole, quiet=quiet)
            finally:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):  # its connections belong to this event loop
                    await agent.model.aclose()


def show(event: object, *, whole: bool, quiet: bool) -> None:
    """Print one event of the run."""
    match event:
        case TextDelta(text) if not whole:
            click.echo(harmless(text) if sys.stdout.isatty() else text, nl=False)
            sys.stdout.flush()
        case ToolCallStarted(call) if not quiet:
            click.secho(single_line(f"-> {call.name}({call.arguments})"), err=True, dim=True)
        case ToolCallEnded(execution) if not quiet and execution.error is not None:
            click.secho(single_line(f"   {execution.name} failed: {execution.error}"), err=True, fg="yellow")
        case RunEnded(output):
            click.echo(structured(output.content) if whole else "")
        case _:
            pass


def structured(content: Any) -> str:
    """A validated reply, as JSON."""
    return json_bytes(content, indent=2).decode()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="definable")
def main() -> None:
    """Serve AI agents.

    AGENT names an agent: `module:agent`, `path/app.py:agent`, or a module or file alone where it holds exactly one.

    \b
    Try it:
      definable demo                        a ready agent that needs no key
      definable init                        write a program to start from
      definable serve app.py --dev          serve it, and again at every save
    \b
    Completion of commands and options, say in ~/.bashrc:
      eval "$(definable completion bash)"
    """


@click.command(short_help="Print what a shell needs to complete.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the code with which SHELL completes commands and options.

    \b
      bash, in ~/.bashrc:  eval "$(definable completion bash)"
      zsh,  in ~/.zshrc:   eval "$(definable completion zsh)"
      fish:                definable completion fish > ~/.config/fish/completions/definable.fish
    """
    made_by = get_completion_class(shell)
    assert made_by is not None
    click.echo(made_by(ctx.find_root().command, {}, "definable", "_DEFINABLE_COMPLETE").source())


for _command in (serve, run, triggers, emit, deadletters, init, demo, completion):
    main.add_command(_command)
