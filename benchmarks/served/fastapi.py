"""The same webhooks with FastAPI under uvicorn[standard] (uvloop, httptools), as its documentation would write them."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import APIKeyHeader

from benchmarks.load.requests import KEY

app = FastAPI()
api_key_header = APIKeyHeader(name="X-API-Key")


async def known_caller(key: Annotated[str, Depends(api_key_header)]) -> str:
    if not secrets.compare_digest(key.encode(), KEY.encode()):
        raise HTTPException(401, "missing or wrong credentials")
    return key


@app.post("/webhook")
async def acknowledge(body: dict[str, Any]) -> dict[str, str]:
    assert body["action"]
    return {"status": "ok"}


@app.post("/guarded")
async def acknowledge_known(body: dict[str, Any], caller: Annotated[str, Depends(known_caller)]) -> dict[str, str]:
    assert caller and body["action"]
    return {"status": "ok"}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


def main(port: str, _backend: str) -> None:
    uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
