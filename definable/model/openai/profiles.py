"""What the providers behind Chat Completions really understand: one table, with a source for each cell.

`model.py` looks a provider up by its name, or by base URL and model id; `request.py` and `reasoning.py` act on the
profile. The page docs/providers.md is made of this table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from definable.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Profile:
    """What one provider, or one of its models, understands. The columns of the table; their defaults are OpenAI's."""

    name: str = "openai-compatible"
    """Whose reasoning and opaque data a reply carries, and what spans call the provider."""
    tools: bool = True
    """Tools can be called."""
    stream_options: bool = True
    """The usage of a stream is asked for by `stream_options`; False: it comes unasked, and asking is refused."""
    json_schema: bool = True
    """An answer can be asked for by its JSON schema."""
    json_schema_with_tools: bool = True
    """The same where there are tools as well."""
    json_schema_streamed: bool = True
    """The same of a stream; False: such an answer is asked for whole, and comes in one piece."""
    several_system_messages: bool = True
    """A system message may stand behind the first; False: all are put together into one at the begin."""
    system_role: Literal["system", "developer"] = "system"
    """The role of instructions."""
    parallel_tool_calls: bool = True
    """The option `parallel_tool_calls` is understood; False: it is not sent."""
    null_content: bool = True
    """A message of tool calls alone has the content null; False: an empty text."""
    max_tokens: str = ""
    """What the limit of output tokens is called, whichever of its two names is given; empty: as it is given."""
    short_call_ids: bool = False
    """The ids of tool calls are nine letters or digits: others are sent as such, made of themselves."""
    think_tags: bool = True
    """A text may begin with its reasoning in tags, as in `<think>...</think>`."""
    reasoning_back: Literal["as it came", "in tags", "never"] = "as it came"
    """How reasoning is sent back, to its own provider alone: with tool calls in the field in which it came, details and
    signatures always; within the text, in tags; or not at all."""
    reasoning_needed: bool = False
    """Each message of tool calls must have `reasoning_content`: an empty one where it has none."""
    call_signature: str = ""
    """What stands for the signature of a thought where another provider's model made the first call of a message."""


Cell: TypeAlias = tuple[Any, str]
"""A value of a column, and where it is said."""


@dataclass(frozen=True, slots=True)
class Row:
    """A provider, or some of its models: what differs from the columns' defaults, or from the provider's row before."""

    name: str
    cells: Mapping[str, Cell] = field(default_factory=dict[str, Cell])
    hosts: tuple[str, ...] = ()
    """Of base URLs, each also as the end of a longer one (".azure.com"), or with a port (":11434")."""
    models: str = ""
    """A regular expression that is searched in the model's id; empty: all."""
    base_url: str = ""
    """A name in braces stands for an environment variable."""
    key: str = ""
    """The environment variable that holds the key."""
    needs_key: bool = True
    source: str = ""
    """Where base URL and key are said."""

    def url(self, environment: Mapping[str, str]) -> str | None:
        """The base URL; None where an environment variable that it needs is not set."""
        try:
            return self.base_url.format_map({name: value.rstrip("/") for name, value in environment.items() if value})
        except KeyError:
            return None


MISTRAL_COMMON = (
    "https://github.com/mistralai/mistral-common/blob/main/src/mistral_common/protocol/instruct/validator.py"
)

O_SERIES = r"(^|/)(o[1-9]\b|gpt-5)"

NO_PARALLEL_CALLS = r"(^|/)(o1|o3|o4-mini)\b"

PROFILES: tuple[Row, ...] = (
    Row(
        "openai",
        {"think_tags": (False, "https://platform.openai.com/docs/guides/reasoning")},
        hosts=("api.openai.com",),
        base_url="https://api.openai.com/v1",
        key="OPENAI_API_KEY",
        source="https://platform.openai.com/docs/api-reference/authentication",
    ),
    Row(
        "openai",
        {
            "max_tokens": ("max_completion_tokens", "https://platform.openai.com/docs/api-reference/chat/create"),
            "system_role": ("developer", "https://platform.openai.com/docs/api-reference/chat/create"),
        },
        models=O_SERIES,
    ),
    Row(
        "openai",
        # of o3 itself: https://github.com/datarobot-oss/datarobot-genai/pull/581
        {"parallel_tool_calls": (False, "https://github.com/run-llama/llama_index/issues/20865")},
        models=NO_PARALLEL_CALLS,
    ),
    Row(
        # think_tags is the default, True: DeepSeek-R1 on Azure sends them,
        # https://github.com/ChatGPTNextWeb/NextChat/issues/6178
        "azure",
        hosts=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
        # the variable: https://github.com/openai/openai-python/blob/main/src/openai/lib/azure.py
        base_url="{AZURE_OPENAI_ENDPOINT}/openai/v1",
        key="AZURE_OPENAI_API_KEY",
        source="https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle",
    ),
    Row(
        "azure",
        {
            "max_tokens": (
                "max_completion_tokens",
                "https://learn.microsoft.com/azure/ai-foundry/openai/how-to/reasoning",
            )
        },
        models=O_SERIES,
    ),
    Row(
        "azure",
        {"parallel_tool_calls": (False, "https://github.com/UKGovernmentBEIS/inspect_ai/issues/1460")},
        models=NO_PARALLEL_CALLS,
    ),
    Row(
        "google",
        # not documented; observed in this issue
        {"json_schema_with_tools": (False, "https://github.com/openai/openai-agents-python/issues/656")},
        hosts=("generativelanguage.googleapis.com",),
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key="GEMINI_API_KEY",
        source="https://ai.google.dev/gemini-api/docs/openai",
    ),
    Row(
        "google",
        {
            # reported for Google's own API; nothing found for its Chat Completions
            "json_schema_with_tools": (True, "https://github.com/pydantic/pydantic-ai/issues/4801"),
            "call_signature": (
                "skip_thought_signature_validator",
                "https://ai.google.dev/gemini-api/docs/thought-signatures",
            ),
        },
        models=r"gemini-[3-9]",
    ),
    Row(
        "groq",
        {
            "json_schema": (False, "https://console.groq.com/docs/structured-outputs"),
            "json_schema_with_tools": (False, "https://console.groq.com/docs/structured-outputs"),
            "json_schema_streamed": (False, "https://github.com/jgravelle/GroqApiLibrary/pull/33"),
        },
        hosts=("api.groq.com",),
        base_url="https://api.groq.com/openai/v1",
        key="GROQ_API_KEY",
        source="https://console.groq.com/docs/openai",
    ),
    Row(
        "groq",
        # kimi-k2 and llama-4 also in Groq's changelog: https://github.com/groq/groq-changelog/pull/11
        {"json_schema": (True, "https://github.com/anomalyco/models.dev/pull/598")},
        models=r"gpt-oss|kimi-k2|llama-4",
    ),
    Row(
        "mistral",
        {
            # stream_options, max_tokens: not documented; observed in these issues
            "stream_options": (False, "https://github.com/avante-corp/avante.nvim/issues/2347"),
            "several_system_messages": (False, MISTRAL_COMMON),
            "max_tokens": ("max_tokens", "https://github.com/editor-code-assistant/eca/issues/231"),
            "short_call_ids": (True, MISTRAL_COMMON),
        },
        hosts=("api.mistral.ai",),
        base_url="https://api.mistral.ai/v1",
        key="MISTRAL_API_KEY",
        source="https://docs.mistral.ai/api",
    ),
    Row(
        "deepseek",
        {
            # DeepSeek documents json_object and max_tokens alone; these issues show what happens to the others
            "json_schema": (False, "https://github.com/UKGovernmentBEIS/inspect_ai/issues/4916"),
            "json_schema_with_tools": (False, "https://github.com/UKGovernmentBEIS/inspect_ai/issues/4916"),
            "max_tokens": ("max_tokens", "https://github.com/earendil-works/pi/issues/8018"),
            "reasoning_needed": (True, "https://api-docs.deepseek.com/guides/thinking_mode"),
        },
        hosts=("api.deepseek.com",),
        base_url="https://api.deepseek.com/v1",
        key="DEEPSEEK_API_KEY",
        source="https://api-docs.deepseek.com/",
    ),
    Row(
        "openrouter",
        hosts=("openrouter.ai",),
        base_url="https://openrouter.ai/api/v1",
        key="OPENROUTER_API_KEY",
        source="https://openrouter.ai/docs/quickstart",
    ),
    Row(
        "xai",
        hosts=("api.x.ai",),
        base_url="https://api.x.ai/v1",
        key="XAI_API_KEY",
        source="https://docs.x.ai/developers/quickstart",
    ),
    Row(
        "together",
        hosts=("api.together.xyz", "api.together.ai"),
        base_url="https://api.together.ai/v1",
        key="TOGETHER_API_KEY",
        source="https://docs.together.ai/docs/inference/openai-compatibility",
    ),
    Row(
        "fireworks",
        hosts=("api.fireworks.ai",),
        base_url="https://api.fireworks.ai/inference/v1",
        key="FIREWORKS_API_KEY",
        source="https://docs.fireworks.ai/getting-started/quickstart",
    ),
    Row(
        "moonshot",
        hosts=("api.moonshot.ai", "api.moonshot.cn"),
        base_url="https://api.moonshot.ai/v1",
        key="MOONSHOT_API_KEY",
        source="https://platform.kimi.ai/docs/api/quickstart",
    ),
    Row(
        "moonshot",
        # that a message without it is refused: not documented; observed in this pull request
        {"reasoning_needed": (True, "https://github.com/continuedev/continue/pull/11806")},
        models=r"kimi-",
    ),
    Row(
        "minimax",
        {
            # M2.5 and M2.7 ignore it in silence
            "json_schema": (False, "https://github.com/MiniMax-AI/MiniMax-M2.5/issues/4"),
            "json_schema_with_tools": (False, "https://github.com/MiniMax-AI/MiniMax-M2.5/issues/4"),
            "several_system_messages": (False, "https://github.com/MiniMax-AI/MiniMax-M2/issues/51"),
            "reasoning_back": ("in tags", "https://platform.minimax.io/docs/api-reference/text-openai-api"),
        },
        hosts=("api.minimax.io", "api.minimaxi.com"),
        base_url="https://api.minimax.io/v1",
        key="MINIMAX_API_KEY",
        source="https://platform.minimax.io/docs/guides/quickstart",
    ),
    Row(
        "databricks",
        # not documented; observed in this issue
        {"stream_options": (False, "https://github.com/continuedev/continue/issues/12936")},
        hosts=(".cloud.databricks.com", ".azuredatabricks.net", ".gcp.databricks.com"),
        # the variables: https://docs.databricks.com/aws/dev-tools/auth/env-vars
        base_url="{DATABRICKS_HOST}/serving-endpoints",
        key="DATABRICKS_TOKEN",
        source="https://learn.microsoft.com/en-us/azure/databricks/machine-learning/model-serving/query-chat-models",
    ),
    Row(
        "ollama",
        hosts=(":11434",),
        base_url="http://localhost:11434/v1",
        needs_key=False,
        source="https://docs.ollama.com/api/openai-compatibility",
    ),
    Row(
        "lmstudio",
        hosts=(":1234",),
        base_url="http://localhost:1234/v1",
        needs_key=False,
        source="https://lmstudio.ai/docs/developer/openai-compat",
    ),
    Row(
        "vllm",
        {"several_system_messages": (False, "https://github.com/vllm-project/vllm/issues/41114")},
        base_url="http://localhost:8000/v1",
        key="VLLM_API_KEY",
        needs_key=False,
        source="https://github.com/vllm-project/vllm/blob/main/docs/getting_started/quickstart.md",
    ),
)
"""The first row of a provider is the provider's, those behind it are of some of its models."""

UNKNOWN = Profile(several_system_messages=False)  # many such servers render what comes by a model's own template

PROVIDERS: Mapping[str, Row] = {row.name: row for row in reversed(PROFILES)}  # each provider's own, the first


@lru_cache(maxsize=256)
def profile_of(provider: str | None, base_url: str | None, model: str) -> Profile:
    """Return the profile of a provider's model.

    Args:
        provider: Its name in the table; None: it is found by the base URL.
        base_url: None: OpenAI's.
        model: The model's id.
    """
    name = provider or _provider_at(base_url)
    if name is None:
        return UNKNOWN
    cells: dict[str, Any] = {}
    for row in PROFILES:
        if row.name == name and re.search(row.models, model):
            cells |= {column: value for column, (value, _) in row.cells.items()}
    return replace(Profile(name), **cells)


def provider_named(name: str) -> Row:
    """Return a provider's own row; raises `ConfigurationError` where there is none."""
    if name not in PROVIDERS:
        raise ConfigurationError(f"profile= is a Profile or one of {', '.join(sorted(PROVIDERS))}, not {name!r}")
    return PROVIDERS[name]


def _provider_at(base_url: str | None) -> str | None:
    if base_url is None:
        return "openai"
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", f":{parts.port}"
    except ValueError:  # a port that is none; the client says so when it is made
        return None
    for row in PROFILES:
        for known in row.hosts:
            if known in (host, port) or (known.startswith(".") and host.endswith(known)):
                return row.name
    return None
