"""The command group; each command is a module of its own."""

from __future__ import annotations

import click

from definable import __version__

from .demo import demo


@click.group()
@click.version_option(__version__, prog_name="definable")
def main() -> None:
    """Serve AI agents."""


main.add_command(demo)
