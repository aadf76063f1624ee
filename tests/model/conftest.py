"""A provider on loopback and a model that talks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import anyio
import pytest
from loopback.openai_server import OpenAIServer

from definable.model import OpenAIChat, failure

Provider: TypeAlias = Callable[..., AbstractAsyncContextManager[tuple[OpenAIServer, OpenAIChat]]]


@asynccontextmanager
async def running_provider(**options: Any) -> AsyncIterator[tuple[OpenAIServer, OpenAIChat]]:
    """A strict server and a model of it; every connection must be gone once the model is closed."""
    async with OpenAIServer().running() as server:
        model = OpenAIChat(**{"id": "gpt-4o", "api_key": server.key, "base_url": server.url} | options)
        with anyio.fail_after(20):
            yield server, model
            await model.aclose()
            await server.idle()


@pytest.fixture
def provider() -> Provider:
    return running_provider


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "RETRY_BACKOFF", replace(failure.RETRY_BACKOFF, initial=0.0))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
