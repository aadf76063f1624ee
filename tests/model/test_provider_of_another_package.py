"""A provider of another package, as `docs/extending.md` has it: found by its entry point, and speaking to a server."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from definable.agent import Agent
from definable.agent.trigger import Reply, TriggerEvent, Webhook
from definable.errors import ConfigurationError, ModelConnectionError, ModelRequestError
from definable.model import Model, resolve_model
from definable.testing import served

pytestmark = pytest.mark.anyio

GUIDE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's example as an installed package."""
    section = GUIDE.read_text().partition("\n## A model\n")[2].partition("\n## ")[0]
    [code] = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    [entry] = re.findall(r"^```toml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert len(list(filter(None, code.splitlines()))) < 60
    (tmp_path / "ollama_models.py").write_text(code)
    install(tmp_path, entry.replace('project.entry-points."definable.models"', "definable.models").replace('"', ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ollama_models", raising=False)
    importlib.invalidate_caches()
    return tmp_path


def install(folder: Path, entry_points: str) -> None:
    metadata = folder / "ollama_models-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ollama-models\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


def answers(event: TriggerEvent) -> Reply:
    """What an Ollama server does: a call of the tool, then its result as text in two pieces."""
    body: dict[str, Any] = event.body
    if body["model"] != "small":
        return Reply({"error": f"model '{body['model']}' not found"}, 404)
    *_, last = body["messages"]
    if last["role"] == "user":
        [tool] = body["tools"]
        call = {"function": {"name": tool["function"]["name"], "arguments": {"first": 2, "second": 3}}}
        parts: list[dict[str, Any]] = [{"message": {"content": "", "tool_calls": [call]}, "done": True}]
    else:
        parts = [
            {"message": {"content": "It is "}, "done": False},
            {"message": {"content": last["content"]}, "done": True, "prompt_eval_count": 7, "eval_count": 2},
        ]
    return Reply("".join(json.dumps(part) + "\n" for part in parts))


def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


async def test_a_model_of_another_package_runs_an_agent(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Agent("offline")
    server.on(Webhook("/api/chat", auth=False))(answers)
    async with served(server) as service:
        assert service.runtime.url is not None
        monkeypatch.setenv("OLLAMA_HOST", service.runtime.url)
        agent = Agent("ollama-native/small", tools=[add])
        assert isinstance(agent.model, Model)
        output = await agent.arun("What is two and three?")
        assert (output.content, output.usage.input_tokens, output.model) == ("It is 5", 7, "small")
        async with agent.arun_stream("Once more?") as events:
            texts = [getattr(event, "text", "") async for event in events]
        assert [text for text in texts if text] == ["It is ", "5"]
        with pytest.raises(ModelRequestError, match="model 'large' not found"):
            await Agent("ollama-native/large").arun("hi")


async def test_its_server_may_be_away(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    with pytest.raises(ModelConnectionError, match=r"127\.0\.0\.1:9"):
        await Agent("ollama-native/small").arun("hi")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            "ollama_models:Missing",
            r"the model provider 'ollama-native' \(ollama_models:Missing\) fails to load: .*Missing",
        ),
        ("not_there:Model", "fails to load: No module named 'not_there'"),
        ("builtins:str", "a model is a Model instance or one of .*, not 'small'"),
    ],
)
def test_what_is_no_provider_is_said_so(installed: Path, value: str, says: str) -> None:
    install(installed, f"[definable.models]\nollama-native = {value}\n")
    with pytest.raises(ConfigurationError, match=says):
        resolve_model("ollama-native/small")


def test_an_unknown_model_is_answered_with_what_is_installed(installed: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'"ollama-native/<id>", "openai/<id>", .*"offline"'):
        resolve_model("acme/gpt")
