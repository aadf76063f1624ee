"""One answer of the Messages API, put together from the events of its stream. Pure; `client.py` hands it out.

Rules: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import json
from typing import Any, cast

from definable.model.failure import ProviderError
from definable.model.message import FinishReason, ModelReply, ToolCall, Usage

FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class AnswerAssembler:
    """Puts a reply together.

    Args:
        provider: Whose its provider data are.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._model: str | None = None
        self._usage: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        """By their index, as the API takes them back; a tool's input is its JSON text until the answer is whole."""
        self.brought: bool = False
        """Whether what was added last was more than a sign of life; the message's start, which says no more than that
        it has begun, is one too: an overloaded API often begins, and fails."""
        self.is_over: bool = False
        """Whether the answer has come to its end."""

    @property
    def is_complete(self) -> bool:
        """Whether the reply is whole."""
        return self.is_over

    def add(self, payload: str) -> str:
        """Take an event; return the text that it adds.

        Raises:
            KeyError, ValueError: It is none of the API's.
            ProviderError: It reports an error.
        """
        event: dict[str, Any] = json.loads(payload)
        kind = event["type"]
        self.brought = kind not in ("ping", "message_start")
        match kind:
            case "message_start":
                self._model = event["message"]["model"]
                self._count(event["message"]["usage"])
            case "content_block_start":
                return self._start(event["index"], event["content_block"])
            case "content_block_delta" if event["index"] in self._blocks:
                return self._extend(self._blocks[event["index"]], event["delta"])
            case "message_delta":
                self._stop_reason = event["delta"].get("stop_reason") or self._stop_reason
                self._count(event.get("usage", {}))
            case "message_stop":
                self.is_over = True
            case "error":
                raise ProviderError(event)
            case _:  # newer than this
                pass
        return ""

    def end(self) -> str:
        """Return the text that was held back: none is."""
        return ""

    def broke_off(self) -> str:
        """What is missing of an answer that ended and is not complete."""
        if not self._blocks:
            return "the model provider's stream ended before anything of a reply came"
        return "the model provider's stream broke off: it ended without message_stop"

    def reply(self) -> ModelReply:
        """The reply, once it is whole."""
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        reason = self._stop_reason or "end_turn"
        calls = [block for block in blocks if block["type"] == "tool_use"]
        parsed = {id(block): _object(block["input"]) for block in calls}
        for block in calls:
            block["input"] = parsed[id(block)] or {}
        thinks = any(block["type"] in ("thinking", "redacted_thinking") for block in blocks)
        kept = [block for block in blocks if block["type"] != "text" or block["text"].strip()]
        return ModelReply(
            "".join(block["text"] for block in blocks if block["type"] == "text"),
            # Of a reply that was cut off, a call whose arguments are not whole is none.
            tuple([ToolCall(b["name"], b["input"], b["id"]) for b in calls if parsed[id(b)] is not None]),
            self._spent(),
            self._model,
            FINISH_REASONS.get(reason, reason),
            "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            self._provider,
            {"content": kept} if thinks else None,
        )

    def _start(self, index: int, block: dict[str, Any]) -> str:
        if block["type"] == "tool_use":
            text = json.dumps(block["input"]) if block.get("input") else ""
            block = {"type": "tool_use", "id": block["id"], "name": block["name"], "input": text}
        elif block["type"] not in ("text", "thinking", "redacted_thinking"):
            return ""  # of a tool of the API's own: what it says comes in blocks of text
        self._blocks[index] = dict(block)
        return block.get("text", "")

    def _extend(self, block: dict[str, Any], delta: dict[str, Any]) -> str:
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
                return delta["text"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                block["input"] += delta["partial_json"]
            case _:
                pass
        return ""

    def _count(self, usage: dict[str, Any]) -> None:
        """Take counts; later ones are totals too."""
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _spent(self) -> Usage:
        read, written = (self._usage.get(f"cache_{kind}_input_tokens", 0) for kind in ("read", "creation"))
        return Usage(
            self._usage.get("input_tokens", 0) + read + written,
            self._usage.get("output_tokens", 0),
            read,
            self._usage.get("output_tokens_details", {}).get("thinking_tokens", 0),
        )


def _object(text: str) -> dict[str, Any] | None:
    """The object that a tool's arguments are; None where they are not whole."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
