"""`definable serve`: an agent, served as its program and the command line say."""

from __future__ import annotations

import os
from typing import Any, cast

import click

from definable.agent.options import ServeOptions
from definable.agent.runtime.dev.child import is_child
from definable.agent.runtime.entry import Backend
from definable.agent.runtime.logging import LEVELS, LogFormat, show_logs
from definable.agent.runtime.settings import ServeSettings
from definable.errors import DefinableError

from .options import BACKENDS, agent_argument
from .target import Target, load_target, program_directory


@click.command(short_help="Serve an agent until a signal.")
@agent_argument
@click.option("--host", help="The address to bind; 0.0.0.0, every interface of the machine, unless set.")
@click.option("--port", type=click.IntRange(0, 65535), help="8000 unless set; 0 picks a free one.")
@click.option("--backend", type=BACKENDS, help="The event loop; asyncio unless set.")
@click.option("--dev", is_flag=True, default=None, help="Documentation at /docs, and a restart at every save.")
@click.option("--name", help="Shown in the banner and in logs; the agent's own name unless set.")
@click.option(
    "--server/--no-server",
    "enable_server",
    default=None,
    help="Whether to serve HTTP; decided by what the agent has unless set.",
)
@click.option("--shutdown-timeout", type=float, help="Seconds to finish what was accepted; 30 unless set.")
@click.option("--certfile", type=click.Path(exists=True, dir_okay=False), help="PEM certificate chain: serves HTTPS.")
@click.option("--keyfile", type=click.Path(exists=True, dir_okay=False), help="PEM private key of the certificate.")
@click.option("--event-workers", type=int, help="Deliveries handled at once; 100 unless set.")
@click.option("--event-buffer", type=int, help="Deliveries that may wait on the default bus; 10000 unless set.")
@click.option("--max-concurrent-runs", type=int, help="Runs at once over HTTP; 10000 unless set.")
@click.option("--max-connections", type=int, help="HTTP connections at once; 10000 unless set.")
@click.option("--max-memory-bodies", type=int, help="Bytes of all unfinished request bodies; 64 MiB unless set.")
@click.option("--max-memory-queued", type=int, help="Bytes that queued runs may hold; 268435456 unless set.")
@click.option("--max-memory-runs", type=int, help="Bytes of what is remembered of runs; 268435456 unless set.")
@click.option("--max-memory-answers", type=int, help="Bytes of large answers under way; 268435456 unless set.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="An origin whose web pages may call; repeatable.")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="A host name to answer to; repeatable."
)
@click.option(
    "--public", multiple=True, metavar="PATH", help="A route of your own without auth, or a glob; repeatable."
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy, or a network of them, whose X-Forwarded-* headers count; repeatable.",
)
@click.option("--root-path", metavar="PATH", help="The prefix under which a proxy serves the agent.")
@click.option("--access-log", is_flag=True, default=None, help="Log a line a request.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Lines for people (unless set), or JSON.")
@click.option("--log-level", type=click.Choice(LEVELS), help="The lowest level that is logged; info unless set.")
def serve(
    target: str, backend: Backend | None, log_format: LogFormat | None, log_level: str | None, **options: Any
) -> None:
    """Serve AGENT until a signal: HTTP, webhooks, cron, events and interfaces.

    What the program itself gives to `agent.serve(...)` holds unless an option here says otherwise. The first Ctrl-C
    finishes what was accepted, the second cuts it off.

    \b
    Examples:
      definable serve app:agent --port 9000
      definable serve path/to/app.py --dev
    """
    given = cast("ServeOptions", {name: value for name, value in options.items() if value not in (None, ())})
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
