"""A FastAPI route that sleeps, under uvicorn[standard]: what is left of a slow run without an agent in it.

`<backend>` is `asyncio:1`, as for `slow.py`.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class RunBody(BaseModel):
    input: str


def main(port: str, backend: str) -> None:
    latency = float(backend.partition(":")[2])
    app = FastAPI()

    @app.post("/run")
    async def run(body: RunBody) -> dict[str, str]:
        await asyncio.sleep(latency)
        return {"content": body.input}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False, timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
