"""One ASGI function that parses its body and acknowledges it, under uvicorn, hypercorn and our own server.

What a server costs without a framework; `<backend>` names the server too: `uvicorn`, `hypercorn`, `asyncio`, `trio`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

KEEP_ALIVE = 75
"""Seconds, as ours: with the 5 of the others their first connections would be gone before the last are made."""

ACKNOWLEDGED = b'{"status":"ok"}'


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    more = scope["method"] == "POST"
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if body:
        json.loads(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ACKNOWLEDGED))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ACKNOWLEDGED})


def main(port: str, server: str, served: Any = app, certificate: str | None = None) -> None:
    match server:
        case "uvicorn":
            import uvicorn

            uvicorn.run(
                served,
                port=int(port),
                http="httptools",
                loop="uvloop",
                lifespan="off",
                log_level="warning",
                timeout_keep_alive=KEEP_ALIVE,
            )
        case "hypercorn":
            serve_with_hypercorn(int(port), served, certificate)
        case _:
            serve_with_ours(int(port), server)


def serve_with_hypercorn(port: int, served: Any, certificate: str | None) -> None:
    import uvloop
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.certfile = config.keyfile = certificate
    config.keep_alive_timeout = KEEP_ALIVE
    config.bind, config.accesslog, config.errorlog = [f"127.0.0.1:{port}"], None, None
    uvloop.run(serve(served, config))


def serve_with_ours(port: int, backend: str) -> None:
    from functools import partial
    from typing import Literal, cast

    from definable.concurrency.event_loop import run_blocking
    from definable.server import HTTPServer, bind

    async def serve(sockets: Any) -> None:
        await HTTPServer(app, sockets).serve()

    backend_ = cast(Literal["asyncio", "trio"], backend)
    run_blocking(partial(serve, bind("127.0.0.1", port)), instead="", backend=backend_)


if __name__ == "__main__":
    main(*sys.argv[1:])
