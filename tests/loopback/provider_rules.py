"""What other providers refuse in a request that OpenAI would take, in their words. Pure; `openai_rules` goes before.

`OpenAIServer(rules="mistral")` answers by them. Each rule has the source that it was taken from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from .openai_rules import Refusal

Message = dict[str, Any]

SHORT_ID = re.compile("[a-zA-Z0-9]{9}")


MISTRALS_ORDER = {
    "system": ("system", "user", "assistant"),
    "user": ("system", "user", "assistant"),
    "assistant": ("assistant", "user", "tool"),
    "tool": ("assistant", "tool", "user"),
}
"""The roles that may come behind one."""


def calls_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [call for message in messages for call in message.get("tool_calls", ())]


def vllm(request: dict[str, Any]) -> None:
    """https://github.com/vllm-project/vllm: it parses the arguments, and Qwen's template looks at the roles."""
    messages = request["messages"]
    for call in calls_of(messages):
        try:
            arguments = json.loads(call["function"]["arguments"])
        except ValueError as error:
            raise Refusal(str(error), type="BadRequestError") from None
        if not isinstance(arguments, dict):
            raise Refusal("Can only get item pairs from a mapping.", type="BadRequestError")
    if any(message["role"] in ("system", "developer") for message in messages[1:]):
        raise Refusal("System message must be at the beginning.", type="BadRequestError")  # issue 41114
    if any(message["role"] == "developer" for message in messages):
        raise Refusal("Unexpected message role.", type="BadRequestError")


def mistral(request: dict[str, Any]) -> None:
    """The validator of https://github.com/mistralai/mistral-common 1.13; fields: https://docs.mistral.ai/api/"""
    for name in ("stream_options", "max_completion_tokens"):
        if name in request:
            raise Refusal(f"body.{name}: Extra inputs are not permitted", 422)
    messages = request["messages"]
    _check_mistrals_order(messages)
    ids = [call["id"] for call in calls_of(messages)]
    ids += [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    for id in ids:
        if not SHORT_ID.fullmatch(id):
            raise Refusal(f"Tool call id was {id} but must be a-z, A-Z, 0-9, with a length of 9.", code="3280")
    for call in calls_of(messages):
        _ = json.loads(call["function"]["arguments"])


def _check_mistrals_order(messages: Sequence[Message]) -> None:
    before = ""
    for message in messages:
        role = message["role"]
        if role == "assistant" and not message.get("content") and not message.get("tool_calls"):
            raise Refusal("Assistant message must have either content or tool_calls, but not none.")
        if before and role not in MISTRALS_ORDER[before]:
            raise Refusal(f"Unexpected role '{role}' after role '{before}'")
        before = role
    if before not in ("user", "tool"):
        raise Refusal(f"Expected last role User or Tool (or Assistant with prefix True) for serving but got {before}")


def deepseek(request: dict[str, Any]) -> None:
    """https://api-docs.deepseek.com/guides/thinking_mode and .../json_mode"""
    if (request.get("response_format") or {}).get("type") == "json_schema":
        raise Refusal("This response_format type is unavailable now")
    if any(message.get("tool_calls") and "reasoning_content" not in message for message in request["messages"]):
        raise Refusal("The `reasoning_content` in the thinking mode must be passed back to the API.")


def kimi(request: dict[str, Any]) -> None:
    """https://github.com/continuedev/continue/pull/11806"""
    for index, message in enumerate(request["messages"]):
        if message.get("tool_calls") and "reasoning_content" not in message:
            raise Refusal(
                f"thinking is enabled but reasoning_content is missing in assistant tool call message at index {index}"
            )
        if message["role"] == "assistant" and not message.get("content") and not message.get("tool_calls"):
            raise Refusal(f"message at position {index} with role 'assistant' must not be empty")


def google(request: dict[str, Any]) -> None:
    """https://ai.google.dev/gemini-api/docs/thought-signatures: of parallel calls the first has one."""
    if request.get("tools") and request.get("response_format") and not request["model"].startswith("gemini-3"):
        raise Refusal("Function calling with a response mime type: 'application/json' is unsupported")
    for message in request["messages"]:
        for call in message.get("tool_calls", ())[:1]:
            if not call.get("extra_content", {}).get("google", {}).get("thought_signature"):
                raise Refusal("Function call is missing a thought_signature in functionCall parts.")


def groq(request: dict[str, Any]) -> None:
    """https://console.groq.com/docs/structured-outputs"""
    if request.get("tools") and request.get("response_format"):
        raise Refusal("json mode cannot be combined with tool/function calling")
    if request.get("stream") and request.get(
        "response_format"
    ):  # https://github.com/langchain-ai/langchain/issues/23629
        raise Refusal("`response_format` does not support streaming")


def minimax(request: dict[str, Any]) -> None:
    """https://github.com/MiniMax-AI/MiniMax-M2.5/issues/4: it ignores what it does not know, which nobody would see."""
    if request.get("response_format"):
        raise Refusal("response_format is only supported by MiniMax-Text-01")
    if [message["role"] for message in request["messages"]].count("system") > 1:  # MiniMax-M2, issue 51
        raise Refusal("invalid params, invalid chat setting (2013)")


def azure_o_series(request: dict[str, Any]) -> None:
    """https://github.com/UKGovernmentBEIS/inspect_ai/issues/1460"""
    if "parallel_tool_calls" in request:
        raise Refusal("Unsupported parameter: 'parallel_tool_calls' is not supported with this model.")


def nothing(request: dict[str, Any]) -> None:
    """Of the many servers that take whatever comes."""


RULES: dict[str, Callable[[dict[str, Any]], None]] = {
    "openai": nothing,
    "lenient": nothing,
    "vllm": vllm,
    "mistral": mistral,
    "deepseek": deepseek,
    "kimi": kimi,
    "google": google,
    "groq": groq,
    "groq gpt-oss": groq,
    "minimax": minimax,
    "azure": azure_o_series,
}

REASONING = frozenset({"reasoning_content", "reasoning", "reasoning_details", "extra_content"})

MORE_FIELDS: dict[str, frozenset[str]] = {
    "openai": frozenset(),
    "mistral": frozenset(),
    "deepseek": frozenset({"reasoning_content"}),
    "kimi": frozenset({"reasoning_content"}),
    "google": frozenset({"extra_content"}),
}
"""Of an assistant's message; servers that are not here take all kinds of reasoning."""


PROVIDERS: dict[str, tuple[str | None, str]] = {
    "openai": ("openai", "gpt-5-mini"),
    "vllm": ("vllm", "qwen3"),
    "mistral": ("mistral", "mistral-large"),
    "deepseek": ("deepseek", "deepseek-chat"),
    "kimi": ("moonshot", "kimi-k2.5"),
    "google": ("google", "gemini-3-pro"),
    "groq": ("groq", "llama-3.3-70b"),
    "groq gpt-oss": ("groq", "openai/gpt-oss-120b"),
    "minimax": ("minimax", "MiniMax-M2.5"),
    "azure": ("azure", "o3-mini"),
    "lenient": (None, "m"),
}
"""A profile, None of a server that is in no table, and a model to which each of the rules applies."""


def fields_of(rules: str) -> frozenset[str]:
    """The fields of assistants' messages and calls that OpenAI does not know and this provider does."""
    return MORE_FIELDS.get(rules, REASONING)


def check_provider(request: dict[str, Any], rules: str) -> None:
    """Raise the `Refusal` of a provider."""
    RULES[rules](request)
