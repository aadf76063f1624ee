"""The command group; each command is a module of its own."""

from __future__ import annotations

import click

from definable import __version__

from .deadletters import deadletters
from .demo import demo, init
from .options import completion
from .run import run
from .serve import serve
from .triggers import triggers


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


for _command in (serve, run, triggers, deadletters, init, demo, completion):
    main.add_command(_command)
