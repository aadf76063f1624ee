"""`FallbackModel`: who answers when the first one cannot, on real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from loopback.openai_server import Answer, BrokenStream, Completion, Fault, OpenAIServer, Problem
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from definable.agent import Agent, RunEnded, TextDelta
from definable.errors import (
    ConfigurationError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    RunTimeout,
)
from definable.model import FallbackModel, FunctionModel, Message, Model, ModelRequest, OfflineModel, OpenAIChat

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))


@asynccontextmanager
async def provider(**options: Any) -> AsyncIterator[tuple[OpenAIServer, FallbackModel]]:
    """A server whose model has another to fall back to; every connection is gone once they are closed."""
    async with OpenAIServer().running() as server:
        settings = {"max_retries": 0, "timeout": 20} | options
        first = OpenAIChat("gpt-4o", api_key=server.key, base_url=server.url, **settings)
        model = FallbackModel(first, OfflineModel("from the second"))
        with anyio.fail_after(40):
            yield server, model
            await model.aclose()
            await server.idle()


async def streamed(model: Model) -> tuple[list[str], str | None]:
    async with model.stream(HI) as deltas:
        *texts, last = [delta async for delta in deltas]
    assert last.reply is not None
    assert last.reply.content == "".join(delta.text for delta in texts)
    return [delta.text for delta in texts], last.reply.model


def test_it_is_a_model() -> None:
    model = FallbackModel("openai/gpt-4o", "offline")
    assert isinstance(model, Model)
    assert model.id == "gpt-4o or offline"
    assert not model.has_key


async def test_the_first_one_answers() -> None:
    async with provider() as (server, model):
        server.play(Completion("first"), Completion("in pieces"))
        reply = await model.reply(HI)
        assert (reply.content, reply.model) == ("first", "gpt-4o-2024-08-06")
        assert await streamed(model) == (["in ", "pieces"], "gpt-4o-2024-08-06")


@pytest.mark.parametrize("way", ["whole", "stream"])
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(Problem(429, "slow down"), id="rate-limit"),
        pytest.param(Problem(429, "pay first", code="insufficient_quota"), id="quota"),
        pytest.param(Problem(500, "broken"), id="500"),
        pytest.param(Problem(529, "overloaded"), id="529"),
        pytest.param(Problem(504, "late"), id="504"),
        pytest.param(Fault("disconnect"), id="disconnect"),
    ],
)
async def test_the_next_one_answers_where_the_first_cannot(way: str, failure: Answer) -> None:
    async with provider() as (server, model):
        server.play(failure)
        if way == "whole":
            reply = await model.reply(HI)
            assert (reply.content, reply.model) == ("from the second", "offline")
        else:
            assert await streamed(model) == (["from ", "the ", "second"], "offline")


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_a_provider_that_is_away_or_silent_is_passed_over(way: str) -> None:
    async with provider(timeout=0.2) as (server, model):
        server.play(Fault("hang"))
        if way == "whole":
            assert (await model.reply(HI)).model == "offline"
        else:
            assert (await streamed(model))[1] == "offline"
    away = FallbackModel(OpenAIChat("gpt-4o", "key", base_url=server.url, max_retries=0), "offline")
    assert (await away.reply(HI)).content == "hi"
    await away.aclose()


@pytest.mark.parametrize("way", ["whole", "stream"])
@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        pytest.param(Problem(400, "no such parameter"), ModelRequestError, id="400"),
        pytest.param(Problem(401, "who are you"), ModelAuthenticationError, id="401"),
        pytest.param(Problem(404, "no such model"), ModelRequestError, id="404"),
        pytest.param(Problem(400, "filtered", code="content_filter"), ModelError, id="content-filter"),
    ],
)
async def test_a_refused_request_is_put_to_nobody_else(way: str, failure: Answer, expected: type[Exception]) -> None:
    async with provider() as (server, model):
        server.play(failure)
        with pytest.raises(expected):
            await (model.reply(HI) if way == "whole" else streamed(model))
        second = model.models[1]
        assert isinstance(second, OfflineModel)
        assert second.requests == []


async def test_what_fails_after_the_first_piece_fails() -> None:
    async with provider() as (server, model):
        server.play(BrokenStream(Completion("one two three"), 3, "end"))
        texts: list[str] = []
        with pytest.raises(ModelResponseError, match="broke off"):
            async with Agent(model).arun_stream("hi") as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        texts.append(event.text)  # noqa: PERF401 - the stream fails, and those before count
        assert texts == ["one ", "two "]


async def test_the_last_failure_tells_of_those_before() -> None:
    model = FallbackModel(OfflineModel(ModelTimeoutError("slow")), OfflineModel(ModelConnectionError("away")))
    with pytest.raises(ModelConnectionError, match="away") as caught:
        await model.reply(HI)
    assert caught.value.__notes__ == ["before it offline failed: slow"]


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_one_deadline_is_over_all(way: str) -> None:
    model = FallbackModel(OfflineModel(ModelConnectionError("away")), OfflineModel(latency=3600), timeout=0.1)
    with pytest.raises(ModelTimeoutError, match=r"none of offline or offline answered within 0\.1 s") as caught:
        await (model.reply(HI) if way == "whole" else streamed(model))
    assert caught.value.__notes__ == ["before it offline failed: away"]


async def test_the_deadline_ends_with_the_first_piece() -> None:
    async def slow(messages: object) -> AsyncGenerator[str]:
        yield "one "
        await anyio.sleep(0.15)
        yield "two"

    assert await streamed(FallbackModel(FunctionModel(slow), "offline", timeout=0.1)) == (["one ", "two"], "slow")


async def test_the_deadline_of_a_run_is_over_all_of_them() -> None:
    model = FallbackModel(OfflineModel(ModelConnectionError("away"), latency=0.05), OfflineModel(latency=3600))
    with pytest.raises(RunTimeout):
        await Agent(model, run_timeout=0.2).arun("hi")


async def test_output_and_span_say_who_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, tracing = InMemorySpanExporter(), TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", tracing)
    agent = Agent(
        FallbackModel(OfflineModel(ModelConnectionError("away")), FunctionModel(lambda m: "yes", id="second"))
    )
    assert (await agent.arun("hi")).model == "second"
    async with agent.arun_stream("hi") as events:
        ended = [event async for event in events if isinstance(event, RunEnded)]
    assert ended[0].output.model == "second"
    chats = [span for span in exporter.get_finished_spans() if span.name.startswith("chat ")]
    assert [span.attributes["gen_ai.response.model"] for span in chats if span.attributes] == ["second", "second"]


async def test_a_cancellation_falls_back_to_nobody() -> None:
    async with provider() as (server, model):
        server.play(Fault("hang"))
        with anyio.move_on_after(0.2) as scope:
            await model.reply(HI)
        assert scope.cancelled_caught
        second = model.models[1]
        assert isinstance(second, OfflineModel)
        assert second.requests == []


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="the models to fall back to"):
        FallbackModel("offline")
    with pytest.raises(ConfigurationError, match="timeout"):
        FallbackModel("offline", "offline", timeout=0)
    with pytest.raises(ConfigurationError, match="unknown model"):
        FallbackModel("offline", "nobody/x")
