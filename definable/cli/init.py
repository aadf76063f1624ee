"""`definable init`: a program to start from."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

STARTER = '''"""An agent as a service: `python {file}`, or `definable serve {file} --dev` to reload at every save."""

import os

from definable.agent import Agent
from definable.agent.trigger import Cron, TriggerEvent, Webhook


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


agent = Agent(
    # The offline model needs no key; it echoes.
    model="openai/gpt-4o-mini" if os.environ.get("OPENAI_API_KEY") else "offline",
    instructions="You are a helpful assistant.",
    tools=[add],
    name="{name}",
)


@agent.on(Webhook("/hello"))
async def on_hello(event: TriggerEvent) -> str:
    return f"Greet this visitor: {{event.body}}"


@agent.on(Cron("0 9 * * *", timezone="UTC"))
async def every_morning(event: TriggerEvent) -> str:
    return "Wish us a good morning."


if __name__ == "__main__":
    agent.serve(host="127.0.0.1")
'''


@click.command(short_help="Write a program to start from.")
@click.argument("path", type=click.Path(path_type=Path), default=Path("app.py"))
def init(path: Path) -> None:
    """Write a program that runs to PATH: a file, or a directory in which it becomes app.py. Never overwrites."""
    if path.is_dir():
        path /= "app.py"
    if path.suffix != ".py":
        raise click.UsageError(f"{path}: a Python file's name ends in .py, and a directory must be there already")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER.format(file=path.name, name=path.stem))
    except FileExistsError as error:  # the file, or one where a directory would have to be
        raise click.ClickException(f"{error.filename} is there already and stays as it is: give another name") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
    name = shlex.quote(str(path))
    click.echo(f"{path} is written. Serve it, and again at every save:\n\n  definable serve {name} --dev\n")
    click.echo(f'or ask it something:\n\n  definable run {name} "hello"')
