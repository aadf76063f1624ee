"""Bodies that come in slowly: each may take its time, and together they hold a bounded amount of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.runtime.http.body import UnfinishedBodies
from definable.agent.runtime.http.request import Request
from definable.agent.trigger import Webhook
from definable.concurrency.byte_limit import ByteLimit
from definable.errors import ConfigurationError
from definable.server.problem import Problem
from definable.testing import VIRTUAL_BACKENDS, served, virtual_time

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


def request_of(bodies: UnfinishedBodies, *chunks: bytes, every: float, ends: bool = True) -> Request:
    """A request whose body comes in pieces; one that does not end stops in the middle."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        if not left:
            await anyio.sleep_forever()
        await anyio.sleep(every)
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left) or not ends}

    return Request({"type": "http", "headers": []}, receive, {}, bodies, ByteLimit(2**28))


async def test_a_body_may_take_hours_while_bytes_keep_coming() -> None:
    bodies = UnfinishedBodies()
    assert await request_of(bodies, *[b"x"] * 500, every=29.0).body(1_000) == b"x" * 500
    assert anyio.current_time() > 4 * HOUR
    assert bodies.size == 0


@pytest.mark.parametrize("chunks", [(), (b"x",), (b"x", b"", b"", b"", b"")])
async def test_thirty_seconds_of_silence_in_a_body_are_a_408(chunks: tuple[bytes, ...]) -> None:
    bodies = UnfinishedBodies()
    with pytest.raises(Problem, match="no byte") as raised:
        await request_of(bodies, *chunks, every=10.0, ends=False).body(1_000)
    assert raised.value.status == 408
    assert 0 <= anyio.current_time() - (30.0 + (10.0 if chunks else 0.0)) <= 1.0
    assert bodies.size == 0


async def test_the_newest_body_is_refused_while_all_others_keep_coming() -> None:
    bodies, whole = UnfinishedBodies(1_000), list[int]()

    async def read() -> None:
        whole.append(len(await request_of(bodies, *[b"x" * 45] * 10, every=0.5).body(1_000)))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(read)
        await anyio.sleep(4.9)
        with pytest.raises(Problem) as raised:
            await request_of(bodies, b"x" * 500, b"x", every=0.0).body(1_000)
        assert raised.value.status == 503
        assert dict(raised.value.headers) == {b"retry-after": b"1"}
    assert whole == [450, 450]
    assert bodies.size == 0


async def test_a_body_whose_bytes_come_just_after_it_gave_way_is_a_503() -> None:
    bodies = UnfinishedBodies(10)
    with pytest.raises(Problem) as raised, bodies.reading() as stalled:
        stalled.add(b"12345")
        await anyio.sleep(20.0)
        with bodies.reading() as other:
            other.add(b"1234567890")
            stalled.add(b"late")
            assert bodies.size == 10
    assert raised.value.status == 503
    assert bodies.size == 0


async def test_bodies_that_stall_give_way_the_longest_silent_first() -> None:
    bodies, ended = UnfinishedBodies(1_000), list[tuple[str, int]]()

    async def stall(name: str) -> None:
        try:
            await request_of(bodies, b"x" * 400, every=0.0, ends=False).body(1_000)
        except Problem as problem:
            ended.append((name, problem.status))

    async with anyio.create_task_group() as group:
        for name in ("first", "second"):
            group.start_soon(stall, name)
            await anyio.sleep(2)
        assert await request_of(bodies, b"y" * 500, b"y", every=0.1).body(1_000) == b"y" * 501
        assert ended == [("first", 503)]
        assert bodies.size == 400
    assert ended == [("first", 503), ("second", 408)]


async def test_a_body_that_comes_whole_needs_no_memory_of_the_unfinished() -> None:
    bodies = UnfinishedBodies(1)
    assert await request_of(bodies, b"x" * 500, every=0.0).body(1_000) == b"x" * 500


async def test_the_memory_holds_the_largest_body_that_a_webhook_takes() -> None:
    agent = Agent("offline")
    agent.on(Webhook("/upload", max_body=1_000))(lambda event: None)
    with pytest.raises(ConfigurationError, match=r"max_memory_bodies=999.*1000 bytes"):
        async with agent.running(port=0, max_memory_bodies=999):
            pass


async def test_a_service_with_full_memory_says_so_and_goes_on() -> None:
    agent = Agent("offline")
    agent.on(Webhook("/upload", max_body=1_000))(lambda event: None)

    async def halves(size: int) -> Any:
        yield b"x" * size
        await anyio.sleep(0.01)
        yield b"x"

    async with served(agent, max_memory_bodies=1_000) as service, anyio.create_task_group() as group:
        group.start_soon(lambda: service.client.post("/upload", content=halves(900)))
        await anyio.sleep(0.005)
        response = await service.client.post("/upload", content=halves(200))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        await anyio.sleep(1)
        assert (await service.client.post("/upload", content=halves(900))).status_code == 200


async def test_a_body_that_is_given_up_is_dropped_also_where_its_error_is_kept() -> None:
    """A traceback keeps its frames, and what they hold, until a garbage collection."""
    bodies = UnfinishedBodies(1_000)
    with bodies.reading() as body:
        with pytest.raises(Problem) as raised:
            body.add(b"x" * 1_001)
    assert raised.value.status == 503
    assert (body.size, bodies.size) == (0, 0)
