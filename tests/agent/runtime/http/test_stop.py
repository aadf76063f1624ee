"""Stopping while requests are in flight: what is answered, what is counted, and that nothing is left."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import TIME_LIMIT, Held, RawClient, raw_run
from quart import websocket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request

from definable.agent import Agent
from definable.agent.runtime import AgentRuntime, WorkCount
from definable.agent.trigger import Webhook
from definable.errors import ModelError
from definable.model import ModelRequest, OfflineModel

pytestmark = pytest.mark.anyio

IN_FLIGHT = 200


def living_tasks(backend: str) -> int:
    if backend == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    import asyncio

    return len(asyncio.all_tasks())


@asynccontextmanager
async def nothing_left(backend: str) -> AsyncIterator[None]:
    """Fails when tasks or file descriptors are left."""
    tasks, fds = living_tasks(backend), len(os.listdir("/proc/self/fd"))
    yield
    for _ in range(200):  # the clients' own ends take a few turns of the loop
        gc.collect(0)
        if living_tasks(backend) <= tasks and len(os.listdir("/proc/self/fd")) <= fds:
            break
        await anyio.lowlevel.checkpoint()
    assert living_tasks(backend) <= tasks
    assert len(os.listdir("/proc/self/fd")) <= fds


@asynccontextmanager
async def connected(runtime: AgentRuntime, count: int = 1) -> AsyncIterator[list[RawClient]]:
    assert runtime.url is not None
    port = int(runtime.url.rsplit(":", 1)[1])
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port)) for _ in range(count)]
        yield [RawClient(stream) for stream in streams]


async def answers(clients: list[RawClient]) -> list[bytes]:
    """What every connection gets until it is closed."""
    results: list[bytes] = []

    async def read(client: RawClient) -> None:
        results.append(await client.rest())

    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(read, client)
    return results


def agent_with(hold: Held) -> Agent:
    agent = Agent(OfflineModel(hold))
    agent.on(Webhook("/hook"))(hold)
    agent.on(Webhook("/long/{n}", respond="accept"))(hold)
    return agent


KINDS = {
    "whole": raw_run(),
    "streamed": raw_run(b'{"input":"hi"}', b"accept: text/event-stream"),
    "webhook": b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_in_flight_is_answered_within_the_grace(anyio_backend: str, kind: str) -> None:
    hold = Held("done")
    async with nothing_left(anyio_backend):
        async with agent_with(hold).running(
            host="127.0.0.1", port=0, enable_server=True, shutdown_timeout=20
        ) as runtime:
            async with connected(runtime, IN_FLIGHT) as clients:
                for client in clients:
                    await client.send(KINDS[kind])
                await hold.until(lambda hold: hold.arrived == IN_FLIGHT)
                runtime.stop()
                with anyio.fail_after(5):
                    while not runtime.draining:
                        await anyio.sleep(0.001)
                hold.go_on.set()
                results = await answers(clients)
    assert Counter(result.split(b" ")[1] for result in results) == {b"200": IN_FLIGHT}
    last = b"event: run_ended" if kind == "streamed" else b"connection: close"
    assert all(last in result.lower() for result in results)
    assert runtime.report is not None
    assert runtime.report.sources["http"] == WorkCount(completed=IN_FLIGHT)
    assert runtime.report.clean


@pytest.mark.parametrize("kind", ["whole", "webhook"])
async def test_past_the_grace_everybody_gets_an_honest_503(anyio_backend: str, kind: str) -> None:
    hold = Held()
    async with nothing_left(anyio_backend):
        async with agent_with(hold).running(
            host="127.0.0.1", port=0, enable_server=True, shutdown_timeout=0.1
        ) as runtime:
            async with connected(runtime, IN_FLIGHT) as clients:
                for client in clients:
                    await client.send(KINDS[kind])
                await hold.until(lambda hold: hold.arrived == IN_FLIGHT)
                runtime.stop()
                results = await answers(clients)
    assert Counter(result.split(b" ")[1] for result in results) == {b"503": IN_FLIGHT}
    for result in results:
        assert b"retry-after: " in result.lower()
        assert b"connection: close" in result.lower()
        assert b"application/problem+json" in result
    assert hold.cancelled == IN_FLIGHT
    assert runtime.report is not None
    assert runtime.report.sources["http"] == WorkCount(cancelled=IN_FLIGHT)
    assert runtime.report.duration < 2
    assert not runtime.report.clean


async def test_past_the_grace_a_stream_ends_with_an_honest_event_and_is_counted(anyio_backend: str) -> None:
    hold = Held()
    async with nothing_left(anyio_backend):
        async with agent_with(hold).running(
            host="127.0.0.1", port=0, enable_server=True, shutdown_timeout=0.1
        ) as runtime:
            async with connected(runtime, IN_FLIGHT) as clients:
                for client in clients:
                    await client.send(KINDS["streamed"])
                await hold.until(lambda hold: hold.arrived == IN_FLIGHT)
                runtime.stop()
                results = await answers(clients)
    assert all(b"run_started" in result for result in results)
    assert all(
        b'id: 2\nevent: run_failed\ndata: {"title":"Service Unavailable","status":503' in result for result in results
    )
    assert all(result.endswith(b"\r\n0\r\n\r\n") for result in results)
    assert runtime.report is not None
    assert runtime.report.sources["http"] == WorkCount(cancelled=IN_FLIGHT)
    assert runtime.report.duration < 2


HALF_BODY = b"POST /run HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"


async def test_idle_stalled_and_half_sent_connections_hold_up_no_stop(anyio_backend: str) -> None:
    agent = Agent(OfflineModel("word " * 500_000))
    async with nothing_left(anyio_backend):
        async with agent.running(host="127.0.0.1", port=0, enable_server=True, shutdown_timeout=0.5) as runtime:
            async with connected(runtime, 5) as [silent, idle, half_head, half_body, not_reading]:
                await idle.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                await idle.until(b"}")
                await half_head.send(b"POST /run HT")
                await half_body.send(HALF_BODY)
                await not_reading.send(KINDS["streamed"])
                await not_reading.until(b"run_started")
                await anyio.sleep(0.05)
                runtime.stop()
                assert await silent.rest() == b""
                assert await idle.rest() == b""
                assert b" 503 " in await half_body.rest()
                await half_head.rest()
                with anyio.fail_after(5):
                    while runtime.report is None:
                        await anyio.sleep(0.01)
    assert runtime.report is not None
    assert runtime.report.duration < 3


async def test_the_account_tells_failures_of_the_service_from_refusals() -> None:
    failures = {"500": RuntimeError("bug"), "502": ModelError("down"), "504": TimeoutError()}

    def answer(request: ModelRequest) -> str:
        if (text := request.messages[-1].content) in failures:
            raise failures[text]
        return text

    agent = Agent(OfflineModel(answer))
    async with agent.running(host="127.0.0.1", port=0, enable_server=True) as runtime:
        async with httpx2.AsyncClient(base_url=runtime.url or "") as client:
            answers = [await client.post("/run", json={"input": text}) for text in ["hi", *failures]]
            answers += [
                await client.post("/run", content=b"{", headers={"content-type": "application/json"}),
                await client.get("/runs/no"),
            ]
            assert [each.status_code for each in answers] == [200, 500, 502, 504, 400, 404]
    assert runtime.report is not None
    assert runtime.report.sources["http"] == WorkCount(completed=6, failed=3)


async def test_new_requests_on_kept_connections_are_refused_while_draining(anyio_backend: str) -> None:
    hold = Held("done")
    async with agent_with(hold).running(host="127.0.0.1", port=0, enable_server=True) as runtime:
        async with connected(runtime, 1) as [busy]:
            await busy.send(KINDS["whole"] + b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")  # one more, pipelined
            await hold.until(lambda hold: hold.arrived == 1)
            runtime.stop()
            while not runtime.draining:
                await anyio.sleep(0.001)
            assert runtime.health()[0] is False
            assert runtime.health()[1]["status"] == "draining"
            hold.go_on.set()
            answer = await busy.rest()
            assert answer.count(b"HTTP/1.1 ") == 1
            assert b"connection: close" in answer.lower()
        with pytest.raises(OSError):
            async with connected(runtime, 1):
                pass
    assert runtime.report is not None
    assert runtime.report.clean


async def test_what_was_accepted_is_done_before_the_end(anyio_backend: str) -> None:
    hold = Held("done")
    async with nothing_left(anyio_backend):
        async with agent_with(hold).running(host="127.0.0.1", port=0, enable_server=True) as runtime:
            async with httpx2.AsyncClient(base_url=str(runtime.url), trust_env=False, verify=False) as client:
                for number in range(20):
                    assert (await client.post(f"/long/{number}")).status_code == 202
                for _ in range(20):
                    later = {"prefer": "respond-async"}
                    assert (await client.post("/run", json={"input": "hi"}, headers=later)).status_code == 202
            runtime.stop()
            await hold.until(lambda hold: hold.arrived >= 40)
            hold.go_on.set()
    assert runtime.report is not None
    assert runtime.report.sources["event"] == WorkCount(completed=40)
    assert runtime.report.clean


async def test_through_a_foreign_server_a_stop_is_a_503_for_everything(anyio_backend: str) -> None:
    agent = Agent("offline")
    app = agent.asgi()
    received, sent = anyio.create_memory_object_stream[dict[str, Any]](1), anyio.create_memory_object_stream[Any](10)
    with received[0], received[1], sent[0], sent[1]:
        async with anyio.create_task_group() as group:
            group.start_soon(app, {"type": "lifespan"}, received[1].receive, sent[0].send)
            await received[0].send({"type": "lifespan.startup"})
            assert (await sent[1].receive())["type"] == "lifespan.startup.complete"
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(base_url="http://x", transport=transport) as client:
                assert (await client.get("/health")).status_code == 200
                assert agent.runtime is not None
                agent.runtime.stop()
                while agent.runtime is not None:
                    await anyio.sleep(0.001)
                health = await client.get("/health")
                assert (health.status_code, health.json()["status"]) == (503, "draining")
                response = await client.post("/run", json={"input": "hi"})
                assert response.status_code == 503
                assert response.headers["connection"] == "close"
                assert int(response.headers["retry-after"]) > 0
            await received[0].send({"type": "lifespan.shutdown"})
            assert (await sent[1].receive())["type"] == "lifespan.shutdown.complete"


async def test_a_route_without_end_learns_of_the_stop(anyio_backend: str) -> None:
    agent = Agent("offline")

    @agent.blueprint.get("/ticks")
    async def ticks() -> Any:
        assert agent.runtime is not None
        draining = agent.runtime.draining

        async def stream() -> AsyncIterator[bytes]:
            yield b": tick\n\n"
            await draining.wait()
            yield b"event: bye\n\n"

        return stream(), 200, {"content-type": "text/event-stream"}

    async with nothing_left(anyio_backend):
        async with agent.running(host="127.0.0.1", port=0, shutdown_timeout=60) as runtime:
            assert (bool(runtime.draining), runtime.draining.is_set()) == (False, False)
            async with connected(runtime) as [client]:
                await client.send(b"GET /ticks HTTP/1.1\r\nhost: x\r\n\r\n")
                await client.stream.receive()
                runtime.stop()
                with anyio.fail_after(5):
                    await runtime.draining
                assert b"event: bye" in (await answers([client]))[0]
    assert runtime.draining
    assert runtime.report is not None
    assert runtime.report.clean
    assert runtime.report.duration < 5


async def test_an_idle_websocket_holds_no_stop(anyio_backend: str) -> None:
    agent = Agent("offline")

    @agent.blueprint.websocket("/ws")
    async def echo() -> None:
        while True:
            await websocket.send(await websocket.receive())

    async with nothing_left(anyio_backend):
        async with agent.running(host="127.0.0.1", port=0, shutdown_timeout=60) as runtime:
            async with connected(runtime) as [client]:
                peer = WSConnection(ConnectionType.CLIENT)
                await client.send(peer.send(Request(host="x", target="/ws")))
                peer.receive_data(await client.stream.receive())
                assert isinstance(next(peer.events()), AcceptConnection)
                runtime.stop()
                [said] = await answers([client])
                peer.receive_data(said)
                [close] = peer.events()
                assert isinstance(close, CloseConnection)
                assert (close.code, close.reason) == (1012, "server restart")
    assert runtime.report is not None
    assert runtime.report.sources["http"] == WorkCount(completed=1)
    assert runtime.report.clean
    assert runtime.report.duration < 5
