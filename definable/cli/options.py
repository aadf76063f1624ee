"""Parameters that several commands take, and what they complete to.

Text for a terminal: tables, and lines that stay lines. Pure.

`definable completion`: what a shell needs to complete commands and options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from definable.agent import Agent
from definable.agent.runtime.logging import escaped

from .target import load_target


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


Function = TypeVar("Function", bound=Callable[..., Any])

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
