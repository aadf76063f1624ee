"""Below another application's middleware: a client that leaves is nobody's failure."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import Held, RawClient, foreign_server
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from definable.agent import Agent
from definable.agent.trigger import Webhook
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio


class Timing(BaseHTTPMiddleware):
    """As most applications have one."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-served-by"] = "the middleware"
        return response


class Watch:
    """An ASGI application around another that keeps what it raises, as a server would log it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.ended = 0
        self.failures: list[BaseException] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            self.failures.append(error)
        finally:
            self.ended += scope["type"] == "http"

    async def until(self, ended: int) -> None:
        while self.ended < ended:
            await anyio.sleep(0.01)


JSON = b"content-type: application/json\r\ncontent-length: 15\r\n"

LEAVING = {
    "a whole run": b"POST /agent/run HTTP/1.1\r\nhost: x\r\n%b\r\n" % JSON + b'{"input": "hi"}',
    "a streamed run": b"POST /agent/run HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n%b\r\n" % JSON
    + b'{"input": "hi"}',
    "an own route": b"GET /agent/own HTTP/1.1\r\nhost: x\r\n\r\n",
    "an unfinished body": b"POST /agent/hook HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{",
}


@pytest.mark.parametrize("request_bytes", LEAVING.values(), ids=LEAVING)
async def test_a_client_that_leaves_is_no_error_of_the_application(anyio_backend: str, request_bytes: bytes) -> None:
    hold = Held("done")
    agent = Agent(OfflineModel(hold))
    agent.on(Webhook("/hook"))(lambda event: None)

    @agent.blueprint.get("/own")
    async def own() -> str:
        return str(await hold())

    service = agent.asgi()
    app = Watch(
        Starlette(routes=[Mount("/agent", service)], middleware=[Middleware(Timing)], lifespan=service.lifespan)
    )
    with anyio.fail_after(20):
        async with foreign_server(anyio_backend, app) as port:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await RawClient(stream).send(request_bytes)
                if b"/hook" in request_bytes:
                    await anyio.sleep(0.1)  # nothing tells that half a body has arrived
                else:
                    await hold.until(lambda held: held.arrived == 1)
            await app.until(ended=1)
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client:
                response = await client.get("/agent/health")
    assert (response.status_code, response.headers["x-served-by"]) == (200, "the middleware")
    assert app.failures == []
    assert hold.ended == 0
