"""What the server offers beyond ASGI to the applications that know of it."""

from __future__ import annotations

from typing import Any

import pytest

from definable.server.request_cycle import WHOLE_BODY, WHOLE_RESPONSE

pytestmark = pytest.mark.anyio

HELLO = {"type": WHOLE_RESPONSE, "status": 200, "headers": [(b"x-a", b"b")], "body": b"hello"}

START = {"type": "http.response.start", "status": 200, "headers": []}

BODY = {"type": "http.response.body", "body": b"hello"}


async def test_a_whole_body_is_in_the_scope_and_can_be_received_too(serving: Any):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = scope["extensions"][WHOLE_BODY]
        assert await receive() == {"type": "http.request", "body": body, "more_body": False}
        await send(HELLO | {"body": body})

    async with serving(app=app) as served, served.client() as client:
        for body in (b"hello", b"", b"again"):
            await client.post("/", body)
            assert (await client.response()).body == body
        chunks = "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        await client.send(f"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
        assert (await client.response()).body == b"abc"


async def test_a_whole_response_goes_out_as_any_other(serving: Any):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(HELLO)

    async with serving(app=app) as served, served.client() as client:
        await client.get("/")
        response = await client.response()
        assert (response.status, response.headers["x-a"], response.body) == (200, "b", b"hello")
        await client.send("HEAD / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert (await client.response(to_head=True)).headers["x-a"] == "b"
        assert await client.rest() == b""


@pytest.mark.parametrize(("first", "second"), [(HELLO, HELLO), (HELLO, START), (HELLO, BODY), (START, HELLO)])
async def test_there_is_one_response_to_a_request(serving: Any, first: dict[str, Any], second: dict[str, Any]):
    refused: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(first)
        with pytest.raises(RuntimeError, match="out of order"):
            await send(second)
        refused.append(second)
        if first is START:
            await send(BODY)

    async with serving(app=app) as served, served.client() as client:
        for _ in range(2):
            await client.get("/")
            assert (await client.response()).body == b"hello"
    assert refused == [second, second]
