"""pydantic-ai's service, as one builds it oneself: a FastAPI route under uvicorn, with APScheduler for cron."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from benchmarks.frameworks.base import INPUT


class RunBody(BaseModel):
    input: str


async def echo(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    await asyncio.sleep(0)
    return ModelResponse(parts=[TextPart(INPUT)])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    scheduler = AsyncIOScheduler()
    scheduler.start()
    yield
    scheduler.shutdown()


agent = Agent(FunctionModel(echo))
app = FastAPI(lifespan=lifespan)


@app.post("/run")
async def run(body: RunBody) -> dict[str, str]:
    return {"content": (await agent.run(body.input)).output}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


def main(port: str, _backend: str) -> None:
    uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
