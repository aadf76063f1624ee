"""`definable completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


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
