"""definable's service on a slow model: `<backend>` is `asyncio:1` or `trio:60`, the seconds that the model takes."""

from __future__ import annotations

import sys
from typing import Literal, cast

from definable.agent import Agent
from definable.model import OfflineModel

GRACE = 1.0
"""Seconds that are left to what is under way when the service is told to stop."""


def main(port: str, backend: str) -> None:
    backend, _, latency = backend.partition(":")
    agent = Agent(OfflineModel(latency=float(latency)), name="slow")
    agent.serve(
        host="127.0.0.1",
        port=int(port),
        enable_server=True,
        backend=cast(Literal["asyncio", "trio"], backend),
        shutdown_timeout=GRACE,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
