"""`OpenAIChat` against the proxy of litellm, which others wrote, in front of our loopback server.

It needs an environment of its own, since it pins what it brings: `LITELLM=/path/to/bin/litellm
pytest tests/model/test_openai_litellm.py`. Without it the test says so and is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import anyio
import httpx2
import pytest
from loopback.openai_server import BrokenStream, Completion, OpenAIServer, Problem

from definable.agent import Agent
from definable.errors import ContextWindowExceeded, ModelError, ModelRateLimitError
from definable.model import Message, ModelReply, ModelRequest, OpenAIChat

pytestmark = pytest.mark.anyio

COMMAND = os.environ.get("LITELLM") or shutil.which("litellm")
KEY = "sk-litellm-master"
HI = ModelRequest((Message("user", "hi"),))

needs_litellm = pytest.mark.skipif(COMMAND is None, reason="litellm is not installed: set LITELLM to its command")


async def ready(url: str, proxy: anyio.abc.Process) -> None:
    async with httpx2.AsyncClient() as client:
        while True:
            assert proxy.returncode is None, "the proxy ended"
            try:
                if (await client.get(f"{url}/health/liveliness")).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            await anyio.sleep(0.2)


async def read(model: OpenAIChat) -> ModelReply:
    async with model.stream(HI) as deltas:
        seen = [delta async for delta in deltas]
    assert seen[-1].reply is not None
    assert "".join(delta.text for delta in seen) == seen[-1].reply.content
    return seen[-1].reply


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def check(server: OpenAIServer, url: str) -> None:
    model = OpenAIChat("gpt-4o", KEY, url, max_retries=0)
    server.play(Completion("one two", usage=(5, 3)), Completion("one two three", usage=(5, 3)))
    reply = await model.reply(HI)
    assert (reply.content, reply.usage.input_tokens, reply.finish_reason) == ("one two", 5, "stop")
    assert (await read(model)).content == "one two three"
    calls = Completion(calls=[("c1", "add", '{"a": 1, "b": 2}'), ("c2", "add", '{"a": 3, "b": 4}')])
    for _ in range(2):
        server.play(calls, Completion("3 and 7"))
    agent = Agent(model, tools=[add])
    output = await agent.arun("add")
    assert (output.content, [call.result for call in output.tool_calls]) == ("3 and 7", ["3", "7"])
    async with agent.arun_stream("add") as events:
        _ = [event async for event in events]
    assert events.output is not None and events.output.content == "3 and 7"
    server.play(Completion("cut", finish_reason="length"))
    assert (await read(model)).finish_reason == "length"
    too_long = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    server.play(Problem(400, too_long, "invalid_request_error", "context_length_exceeded"))
    with pytest.raises(ContextWindowExceeded):
        await model.reply(HI)
    server.play(Problem(429, "slow down", "requests"))
    with pytest.raises(ModelRateLimitError):
        await model.reply(HI)
    server.play(BrokenStream(Completion("one two three"), 3, b'data: {"error": {"message": "gone", "code": 500}}\n\n'))
    with pytest.raises(ModelError):
        await read(model)
    with pytest.raises(ModelError):  # without a database it calls a wrong key a bad request
        await OpenAIChat("gpt-4o", "sk-wrong-key", url, max_retries=0).reply(HI)
    assert not server.refusals
    await model.aclose()


@needs_litellm
async def test_an_agent_runs_behind_the_proxy(anyio_backend: str, tmp_path: Path) -> None:
    assert COMMAND is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with OpenAIServer().running() as server:
        params = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": server.key}
        config = {
            "model_list": [{"model_name": "gpt-4o", "litellm_params": params}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"num_retries": 0, "telemetry": False},
            "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        }
        (tmp_path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        command = [COMMAND, "--config", str(tmp_path / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
        environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with (tmp_path / "log").open("wb") as log:
            async with await anyio.open_process(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment, start_new_session=True
            ) as proxy:
                try:
                    with anyio.fail_after(180):
                        await ready(f"http://127.0.0.1:{port}", proxy)
                        await check(server, f"http://127.0.0.1:{port}/v1")
                finally:
                    os.killpg(proxy.pid, signal.SIGKILL)
