"""What everybody may call: definable's agent, or one ASGI function under uvicorn and hypercorn.

`<backend>` is a server (`uvicorn`, `hypercorn`, `asyncio`, `trio`), a colon, and the file of a certificate or nothing.
The others serve a function that reads whole bodies, as frameworks do, with the settings that they come with: forms
with the standard library, documents with pydantic, whose errors it answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal, cast
from urllib.parse import parse_qsl

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.served import bare

TICK = 0.001
"""Seconds between two looks at the event loop."""


class Turns:
    """How long the event loop was busy without a break."""

    def __init__(self) -> None:
        self._longest = 0.0
        self.watching: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Look, until cancelled."""
        last = time.thread_time()
        while True:
            await anyio.sleep(TICK)
            now = time.thread_time()
            self._longest, last = max(self._longest, now - last), now

    def taken(self) -> dict[str, float]:
        """The longest since it was asked for, in seconds of processor time."""
        longest, self._longest = self._longest, 0.0
        return {"longest": longest}


turns = Turns()


class Run(BaseModel):
    """What `POST /run` takes."""

    model_config = ConfigDict(extra="forbid")

    input: str


async def app(scope: Any, receive: Any, send: Any) -> None:
    if turns.watching is None:
        turns.watching = asyncio.create_task(turns.watch())
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["type"] == "http":
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, answer = answer_of(scope["path"], body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def answer_of(path: str, body: bytes) -> tuple[int, bytes]:
    if path == "/turn":
        return 200, json.dumps(turns.taken()).encode()
    if path == "/form":
        parse_qsl(body.decode(), keep_blank_values=True)
    elif path == "/run":
        try:
            Run.model_validate_json(body)
        except ValidationError as error:
            return 422, error.json().encode()
    elif body:
        json.loads(body)
    return 200, bare.ACKNOWLEDGED


def serve_agent(port: int, backend: Literal["asyncio", "trio"], certificate: str | None) -> None:
    from quart import websocket

    from definable.agent import Agent
    from definable.agent.trigger import Reply, TriggerEvent, Webhook

    @asynccontextmanager
    async def watched() -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(turns.watch)
            yield
            tasks.cancel_scope.cancel()

    agent = Agent("offline", name="attacked", lifespan=lambda _: watched())

    @agent.on(Webhook("/webhook"))
    @agent.on(Webhook("/once", dedupe="X-Delivery"))
    async def acknowledge(event: TriggerEvent) -> None:
        assert event.body["action"]

    @agent.on(Webhook("/form"))
    async def take_form(event: TriggerEvent) -> None:
        assert event.body

    @agent.on(Webhook("/turn"))
    async def longest(event: TriggerEvent) -> Reply:
        return Reply(turns.taken())

    @agent.blueprint.websocket("/ws")
    async def listen() -> None:
        while True:
            await websocket.receive()

    agent.serve(host="127.0.0.1", port=port, backend=backend, certfile=certificate)


def main(port: str, backend: str) -> None:
    server, _, certificate = backend.partition(":")
    match server:
        case "uvicorn" | "hypercorn":
            bare.main(port, server, app, certificate or None)
        case _:
            serve_agent(int(port), cast(Literal["asyncio", "trio"], server), certificate or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
