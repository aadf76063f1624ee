"""The command group; each command is a module of its own."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from definable import __version__

from .demo import demo, init
from .run import run
from .serve import serve
from .triggers import deadletters, triggers


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


for _command in (serve, run, triggers, deadletters, init, demo, completion):
    main.add_command(_command)
