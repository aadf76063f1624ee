"""definable's webhooks: one that everybody may call, one for whoever has the key."""

from __future__ import annotations

import sys
from typing import Literal, cast

from benchmarks.load.requests import KEY
from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import TriggerEvent, Webhook

agent = Agent("offline", name="webhooks")


@agent.on(Webhook("/webhook"))
async def acknowledge(event: TriggerEvent) -> None:
    assert event.body["action"]


@agent.on(Webhook("/guarded", auth=APIKeyAuth(KEY)))
async def acknowledge_known(event: TriggerEvent) -> None:
    assert event.body["action"]


def main(port: str, backend: str) -> None:
    agent.serve(host="127.0.0.1", port=int(port), backend=cast(Literal["asyncio", "trio"], backend))


if __name__ == "__main__":
    main(*sys.argv[1:])
