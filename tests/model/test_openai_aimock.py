"""`OpenAIChat` against aimock, an emulator that others wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from loopback import aimock

from definable.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelResponseError,
)
from definable.model import Message, ModelReply, ModelRequest, OpenAIChat, OutputSchema, ToolDefinition
from definable.model.failure import RETRY_BACKOFF

pytestmark = pytest.mark.anyio

KEY = "sk-aimock-test"
LONG = "The quick brown fox jumps over the lazy dog, again and again and again."
FIXTURES: list[dict[str, Any]] = [
    {"match": {"userMessage": "greet"}, "response": {"content": LONG}},
    {"match": {"toolCallId": "call_a"}, "response": {"content": "3 and 7"}},
    {
        "match": {"userMessage": "add"},
        "response": {
            "toolCalls": [
                {"id": "call_a", "name": "add", "arguments": {"a": 1, "b": 2}},
                {"id": "call_b", "name": "add", "arguments": {"a": 3, "b": 4}},
            ]
        },
    },
    {
        "match": {"userMessage": "limited", "sequenceIndex": 0},
        "response": {"error": {"message": "Rate limited", "type": "rate_limit_error"}, "status": 429, "retryAfter": 0},
    },
    {"match": {"userMessage": "limited", "sequenceIndex": 1}, "response": {"content": "at last"}},
    {
        "match": {"userMessage": "exhausted"},
        "response": {"error": {"message": "Come back later", "type": "requests"}, "status": 429, "retryAfter": 3600},
    },
    {"match": {"userMessage": "truncated"}, "response": {"content": LONG}, "truncateAfterChunks": 2},
    {"match": {"userMessage": "slow"}, "response": {"content": LONG}, "latency": 5000},
    {"match": {"userMessage": "json", "responseFormat": "json_schema"}, "response": {"content": {"city": "Oslo"}}},
]
ADD = ToolDefinition("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}})

MakeModel: TypeAlias = Callable[..., OpenAIChat]


@pytest.fixture(scope="session")
def aimock_url(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert pytestconfig.cache is not None
    try:
        installed = aimock.install(Path(pytestconfig.cache.mkdir("aimock")))
    except aimock.NodeMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with aimock.running(installed, FIXTURES, tmp_path_factory.mktemp("aimock"), KEY) as url:
        yield url


@pytest.fixture
def make_model(aimock_url: str, request: pytest.FixtureRequest) -> MakeModel:
    def make(*, key: str = KEY, max_retries: int = 2, **headers: str) -> OpenAIChat:
        # aimock counts a fixture's matches for each test id.
        headers |= {"x-test-id": request.node.nodeid.encode("ascii", "replace").decode()}
        return OpenAIChat("gpt-4o", api_key=key, base_url=aimock_url, max_retries=max_retries, extra_headers=headers)

    return make


async def ask(model: OpenAIChat, request: ModelRequest, stream: bool) -> ModelReply:
    try:
        with anyio.fail_after(10):
            if not stream:
                return await model.reply(request)
            async with model.stream(request) as deltas:
                *texts, last = [delta async for delta in deltas]
            assert last.reply is not None and "".join(delta.text for delta in texts) == last.reply.content
            return last.reply
    finally:
        with anyio.CancelScope(shield=True):
            await model.aclose()


def user(text: str) -> ModelRequest:
    return ModelRequest((Message("user", text),))


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@both
async def test_text(make_model: MakeModel, stream: bool) -> None:
    reply = await ask(make_model(), user("greet me"), stream)
    assert (reply.content, reply.finish_reason) == (LONG, "stop")


@both
async def test_parallel_tool_calls_and_their_results(make_model: MakeModel, stream: bool) -> None:
    question = Message("user", "add 1 + 2, 3 + 4")
    first = await ask(make_model(), ModelRequest((question,), (ADD,)), stream)
    assert [(call.id, call.name) for call in first.tool_calls] == [("call_a", "add"), ("call_b", "add")]
    assert first.finish_reason == "tool_calls"
    asked = Message("assistant", tool_calls=first.tool_calls)
    results = (Message("tool", "7", tool_call_id="call_b"), Message("tool", "3", tool_call_id="call_a"))
    second = await ask(make_model(), ModelRequest((question, asked, *results), (ADD,)), stream)
    assert second.content == "3 and 7"


@both
async def test_a_rate_limit_is_waited_out(make_model: MakeModel, stream: bool) -> None:
    assert (await ask(make_model(), user("limited"), stream)).content == "at last"


@both
async def test_a_long_rate_limit_is_an_error(make_model: MakeModel, stream: bool) -> None:
    with pytest.raises(ModelRateLimitError, match="Come back later") as caught:
        await ask(make_model(), user("exhausted"), stream)
    assert caught.value.retry_after == 3600 > RETRY_BACKOFF.max_retry_after


async def test_a_truncated_stream_is_an_error(make_model: MakeModel) -> None:
    with pytest.raises((ModelResponseError, ModelConnectionError), match="broke"):
        await ask(make_model(), user("truncated"), stream=True)


@both
async def test_structured_output(make_model: MakeModel, stream: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    request = ModelRequest((Message("user", "json"),), output_schema=OutputSchema("Place", schema))
    assert (await ask(make_model(), request, stream)).content == '{"city":"Oslo"}'


@both
async def test_a_wrong_key(make_model: MakeModel, stream: bool) -> None:
    with pytest.raises(ModelAuthenticationError):
        await ask(make_model(key="sk-wrong"), user("greet"), stream)


@both
@pytest.mark.parametrize(
    ("chaos", "expected"),
    [
        ("drop", ModelResponseError),
        ("malformed", ModelResponseError),
        ("disconnect", ModelConnectionError),
        ("ratelimit", ModelRateLimitError),
    ],
)
async def test_chaos(make_model: MakeModel, chaos: str, expected: type[ModelError], stream: bool) -> None:
    with pytest.raises(expected):
        await ask(make_model(max_retries=0, **{f"x-aimock-chaos-{chaos}": "1"}), user("greet"), stream)


async def test_cancelled_in_the_middle(make_model: MakeModel) -> None:
    model = make_model()
    with anyio.move_on_after(0.2) as scope:
        await ask(model, user("slow"), stream=True)
    assert scope.cancelled_caught
    assert (await ask(model, user("greet"), stream=True)).content == LONG
