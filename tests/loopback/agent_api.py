"""An agent behind each server that it must behave the same behind: our own, uvicorn (asyncio) and hypercorn (trio)."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import httpx2
import uvicorn
from anyio.abc import SocketStream
from hypercorn.config import Config as HypercornConfig

from definable.agent import Agent
from definable.agent.trigger import TriggerEvent, Webhook
from definable.testing import served

TIME_LIMIT = 30.0
"""Seconds after which a hanging test is a failed one."""

Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@asynccontextmanager
async def serve_ourselves(agent: Agent, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    with anyio.fail_after(TIME_LIMIT):
        async with served(agent, **options) as service:
            yield service.client


@asynccontextmanager
async def serve_foreign(
    backend: str, agent: Agent, *, root_path: str = "", **options: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    app = agent.asgi(**options)
    with anyio.fail_after(TIME_LIMIT):
        async with foreign_server(backend, app, root_path) as port:
            url = f"http://127.0.0.1:{port}"
            async with httpx2.AsyncClient(base_url=url, timeout=TIME_LIMIT, trust_env=False, verify=False) as client:
                yield client


@asynccontextmanager
async def foreign_server(backend: str, app: Any, root_path: str = "") -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        async with anyio.create_task_group() as group:
            if backend == "asyncio":
                server = UvicornServer(
                    uvicorn.Config(app, log_config=None, lifespan="on", ws="wsproto", root_path=root_path)
                )
                group.start_soon(partial(server.serve, sockets=[sock]))
                await server.ready.wait()
                yield port
                server.should_exit = True
            else:
                from hypercorn.trio import serve as hypercorn_serve

                config, stop = HypercornConfig(), anyio.Event()
                config.bind, config.accesslog, config.errorlog = [f"fd://{sock.detach()}"], None, None
                config.root_path = root_path
                await group.start(partial(hypercorn_serve, app, config, shutdown_trigger=stop.wait))
                yield port
                stop.set()


class UvicornServer(uvicorn.Server):
    """uvicorn, without its signal handlers, that says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()
        self.capture_signals = nullcontext  # pyright: ignore[reportAttributeAccessIssue]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def assert_problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    """The response is that problem and nothing else: no page, no traceback."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert "Traceback" not in response.text
    assert "<html" not in response.text.lower()
    return document


@dataclass
class ServerEvent:
    """One server-sent event; a comment has text alone."""

    id: int | None = None
    name: str = ""
    data: Any = None
    comment: str = ""


@dataclass
class EventReader:
    """The events of a streamed response, as they come."""

    response: httpx2.Response
    _lines: Any = field(init=False)

    def __post_init__(self) -> None:
        self._lines = lines_of(self.response)

    def __aiter__(self) -> EventReader:
        return self

    async def __anext__(self) -> ServerEvent:
        event = ServerEvent()
        async for line in self._lines:
            key, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                return event
            match key:
                case "":
                    event.comment = value
                case "id":
                    event.id = int(value)
                case "event":
                    event.name = value
                case "data":
                    event.data = json.loads(value)
                case _:
                    raise AssertionError(line)
        raise StopAsyncIteration

    async def all(self) -> list[ServerEvent]:
        return [event async for event in self]


async def lines_of(response: httpx2.Response) -> AsyncIterator[str]:
    """A stream's lines; no character but the line feed ends one, whatever Python's `splitlines` thinks."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode()
    assert not rest


@asynccontextmanager
async def stream_run(client: httpx2.AsyncClient, input: str = "hi", **fields: Any) -> AsyncIterator[EventReader]:
    """A streamed run."""
    headers = {"accept": "text/event-stream"}
    async with client.stream("POST", "/run", json={"input": input, **fields}, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield EventReader(response)


class Held:
    """Something in the service that waits until it may go on: a handler, a hook, a scripted model's answer."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.go_on = anyio.Event()
        self.arrived = self.ended = self.cancelled = 0
        self._changed = anyio.Event()

    async def __call__(self, *_: Any) -> Any:
        self.arrived += 1
        self._notify()
        try:
            await self.go_on.wait()
            self.ended += 1
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self._notify()
        return self.result

    async def until(self, condition: Callable[[Held], bool]) -> None:
        with anyio.fail_after(TIME_LIMIT):
            while not condition(self):
                await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class RawClient:
    """A connection whose bytes matter."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def until(self, part: bytes) -> bytes:
        """What comes, up to and with a part."""
        data = b""
        with anyio.fail_after(TIME_LIMIT):
            while part not in data:
                data += await self.stream.receive()
        return data

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        data = b""
        with anyio.fail_after(TIME_LIMIT):
            try:
                while True:
                    data += await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return data


@asynccontextmanager
async def raw_client(client: httpx2.AsyncClient) -> AsyncIterator[RawClient]:
    """A raw connection to the server that a client talks to."""
    async with await anyio.connect_tcp("127.0.0.1", client.base_url.port or 80) as stream:
        yield RawClient(stream)


def raw_run(body: bytes = b'{"input":"hi"}', *headers: bytes) -> bytes:
    """A whole `POST /run` as bytes."""
    lines = [
        b"POST /run HTTP/1.1",
        b"host: x",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Recorder:
    """A handler that keeps its events."""

    def __init__(self, *results: Any) -> None:
        self.events: list[TriggerEvent] = []
        self.results = results

    async def __call__(self, event: TriggerEvent) -> Any:
        self.events.append(event)
        result = self.results[min(len(self.events), len(self.results)) - 1] if self.results else None
        if isinstance(result, Exception):
            raise result
        return result


def agent_with(webhook: Webhook, handler: Any, model: Any = "offline") -> Agent:
    agent = Agent(model)
    agent.on(webhook)(handler)
    return agent
