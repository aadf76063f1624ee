"""The table of providers: found by base URL and id, a source for each cell, and the page that is made of it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from definable.errors import ConfigurationError, ModelAuthenticationError, ModelConnectionError
from definable.model import Message, ModelRequest, OpenAIChat, resolve_model
from definable.model.openai.profiles import PROFILES, PROVIDERS, UNKNOWN, Profile, profile_of

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))
NAMED = "openai google groq mistral deepseek openrouter xai together fireworks ollama lmstudio vllm azure".split()


def test_every_cell_has_a_source_and_a_column() -> None:
    columns = set(Profile.__dataclass_fields__) - {"name"}
    for row in PROFILES:
        for column, (value, source) in row.cells.items():
            assert column in columns and source.startswith("https://"), (row.name, column)
            assert type(value) is type(getattr(UNKNOWN, column))
    assert all(row.source.startswith("https://") for row in PROVIDERS.values())


@pytest.mark.parametrize(
    ("base_url", "model", "name"),
    [
        (None, "gpt-4o", "openai"),
        ("https://api.openai.com/v1", "gpt-4o", "openai"),
        ("https://me.openai.azure.com/openai/v1", "gpt-4o", "azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini-2.5-pro", "google"),
        ("https://API.mistral.ai/v1", "mistral-large", "mistral"),
        ("https://openrouter.ai/api/v1", "deepseek/deepseek-chat", "openrouter"),
        ("http://192.168.0.7:11434/v1", "qwen3", "ollama"),
        ("https://dbc-1.cloud.databricks.com/serving-endpoints", "x", "databricks"),
        ("https://api.openai.com.example.org/v1", "gpt-4o", "openai-compatible"),
        ("http://localhost:9000/v1", "gpt-4o", "openai-compatible"),
        ("http://localhost:port/v1", "gpt-4o", "openai-compatible"),
    ],
)
def test_a_provider_is_found_by_its_base_url(base_url: str | None, model: str, name: str) -> None:
    assert profile_of(None, base_url, model).name == name


@pytest.mark.parametrize(
    ("provider", "model", "column", "value"),
    [
        ("openai", "gpt-4o", "max_tokens", ""),
        ("openai", "o3-mini", "max_tokens", "max_completion_tokens"),
        ("openai", "gpt-5-mini", "system_role", "developer"),
        ("openai", "o3-mini", "parallel_tool_calls", False),
        ("openai", "gpt-5-mini", "parallel_tool_calls", True),
        ("google", "gemini-2.5-pro", "json_schema_with_tools", False),
        ("google", "gemini-3-pro", "json_schema_with_tools", True),
        ("groq", "llama-3.3-70b", "json_schema", False),
        ("groq", "openai/gpt-oss-120b", "json_schema", True),
        ("azure", "o3-mini", "parallel_tool_calls", False),
        ("azure", "gpt-4o", "parallel_tool_calls", True),
        ("groq", "openai/gpt-oss-120b", "json_schema_streamed", False),
        ("minimax", "MiniMax-M2.5", "json_schema", False),
        ("moonshot", "moonshot-v1-8k", "reasoning_needed", False),
        ("moonshot", "kimi-k2.5", "reasoning_needed", True),
    ],
)
def test_rows_of_models_go_before_their_providers(provider: str, model: str, column: str, value: Any) -> None:
    assert getattr(profile_of(provider, None, model), column) == value


def test_a_profile_of_ones_own_goes_before_the_table() -> None:
    mine = Profile("mine", json_schema=False)
    model = OpenAIChat("gpt-4o", base_url="https://api.openai.com/v1", profile=mine)
    assert (model.profile, model.provider) == (mine, "mine")
    assert OpenAIChat("x", base_url="http://proxy:9000/v1", profile="deepseek").profile.reasoning_needed
    with pytest.raises(ConfigurationError, match=r"profile= is a Profile or one of azure, .*not 'deepsek'"):
        OpenAIChat("x", profile="deepsek")


@pytest.mark.parametrize("name", NAMED)
def test_each_named_provider_has_base_url_and_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://me.openai.azure.com/")
    row = PROVIDERS[name]
    if row.key:
        monkeypatch.delenv(row.key, raising=False)
    model = resolve_model(f"{name}/some/model")
    assert isinstance(model, OpenAIChat)
    assert (model.id, model.provider, model.has_key) == ("some/model", name, not row.needs_key)
    if row.key:
        monkeypatch.setenv(row.key, "sk-x")
        assert model.has_key


async def test_a_named_provider_is_asked_with_its_own_key(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with provider() as (server, _):
        server.models = frozenset({"mistral-large"})
        server.rules = "mistral"
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-this")
        model = OpenAIChat("mistral-large", base_url=server.url, profile="mistral")
        monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
        with pytest.raises(ModelAuthenticationError, match="set MISTRAL_API_KEY, or pass api_key="):
            await model.reply(HI)
        monkeypatch.setenv("MISTRAL_API_KEY", server.key)
        assert (await model.reply(HI)).content == "ok"
        await model.aclose()


async def test_azure_without_its_endpoint_says_what_to_set(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    with pytest.raises(ModelConnectionError, match=r"no base URL for gpt-4o: .*AZURE_OPENAI_ENDPOINT"):
        await OpenAIChat("gpt-4o", "sk-x", profile="azure").reply(HI)


PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
MARK = "<!-- the table; `python tests/model/test_profiles.py` writes it -->\n"


def columns() -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of each column."""
    [profile] = [node for node in ast.parse(inspect.getsource(Profile)).body if isinstance(node, ast.ClassDef)]
    for field, meaning in pairwise(profile.body):
        if isinstance(field, ast.AnnAssign) and isinstance(meaning, ast.Expr):
            assert field.value is not None
            text = " ".join(inspect.cleandoc(ast.literal_eval(meaning.value)).split())
            yield ast.unparse(field.target), ast.unparse(field.value), text


def page() -> str:
    """The table in Markdown."""
    lines = ["", "| Column | Default | |", "|---|---|---|"]
    lines += [f"| `{name}` | `{default}` | {meaning} |" for name, default, meaning in columns()]
    lines += ["", "| Model | Base URL | Key | Said in |", "|---|---|---|---|"]
    for name, row in sorted(PROVIDERS.items()):
        key = f"`{row.key}`{'' if row.needs_key else ', if any'}" if row.key else "none"
        lines.append(f'| `"{name}/<id>"` | `{row.base_url}` | {key} | <{row.source}> |')
    lines += ["", "| Provider | Ids | Column | Value | Said in |", "|---|---|---|---|---|"]
    for row in PROFILES:
        ids = "`{}`".format(row.models.replace("|", r"\|")) if row.models else "all"
        for column, (value, source) in row.cells.items():
            lines.append(f"| {row.name} | {ids} | `{column}` | `{value!r}` | <{source}> |")
    return "\n".join(lines) + "\n"


def test_the_page_of_providers_is_made_of_the_table() -> None:
    assert PAGE.read_text().partition(MARK)[2] == page()


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + page())
