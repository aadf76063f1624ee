"""A webhook and a WebSocket that everybody may call: definable's, or one ASGI function under uvicorn and hypercorn.

`<backend>` names the server too: `uvicorn`, `hypercorn`, `asyncio`, `trio`. The two others serve a function that reads
whole bodies, as frameworks do, with the settings that they come with.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, cast

from benchmarks.served import bare


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["type"] == "http":
        await bare.app(scope, receive, send)


def serve_agent(port: int, backend: Literal["asyncio", "trio"]) -> None:
    from quart import websocket

    from definable.agent import Agent
    from definable.agent.trigger import TriggerEvent, Webhook

    agent = Agent("offline", name="attacked")

    @agent.on(Webhook("/webhook"))
    async def acknowledge(event: TriggerEvent) -> None:
        assert event.body["action"]

    @agent.blueprint.websocket("/ws")
    async def listen() -> None:
        while True:
            await websocket.receive()

    agent.serve(host="127.0.0.1", port=port, backend=backend)


def main(port: str, server: str) -> None:
    match server:
        case "uvicorn" | "hypercorn":
            bare.main(port, server, app)
        case _:
            serve_agent(int(port), cast(Literal["asyncio", "trio"], server))


if __name__ == "__main__":
    main(*sys.argv[1:])
