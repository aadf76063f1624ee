"""definable's service: HTTP, cron and events in one call."""

from __future__ import annotations

import sys
from typing import Literal, cast

from definable.agent import Agent


def main(port: str, backend: str) -> None:
    agent = Agent("offline", name="echo")
    agent.serve(
        host="127.0.0.1",
        port=int(port),
        enable_server=True,
        backend=cast(Literal["asyncio", "trio"], backend),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
