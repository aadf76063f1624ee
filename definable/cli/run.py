"""`definable run`: one run of an agent, its reply on the terminal as it comes."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import anyio
import click

from definable.agent import Agent
from definable.agent.run.output import RunEnded, TextDelta, ToolCallEnded, ToolCallStarted
from definable.agent.runtime.entry import Backend
from definable.agent.runtime.logging import show_logs
from definable.concurrency.event_loop import plain_errors
from definable.errors import DefinableError
from definable.json_text import json_bytes

from .target import BACKENDS, agent_argument, harmless, load_target, single_line

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
