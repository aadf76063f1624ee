"""Parameters that several commands take, and what they complete to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from definable.agent import Agent

from .target import load_target

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
