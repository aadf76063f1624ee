"""What a model thought before it answered, in the ways in which servers send it. Pure.

It comes as `reasoning_content` (DeepSeek, Moonshot, xAI, vLLM), as `reasoning` (Groq, OpenRouter, Ollama, vLLM), with
signed or encrypted `reasoning_details` beside it (OpenRouter), as parts of the content (Mistral), in tags at the begin
of the text (models that a server knows nothing of), or as a signature alone, `extra_content` (Google). `response.py`
uses it; `request.py` sends it back.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import BaseModel

TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]"))
"""Of Qwen and DeepSeek, of Claude's imitators, of Gemini, and of Mistral's open models."""


class ContentPart(BaseModel):
    """A part of a content that is a list."""

    type: str | None = None
    text: str | None = None
    thinking: Any = None
    """Mistral's: text, or a list of parts with text."""


class ReasoningFields(BaseModel):
    """Of a message, or of what a chunk adds to one, all that holds reasoning."""

    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    extra_content: dict[str, Any] | None = None

    @property
    def has_text_alone(self) -> bool:
        """Whether there is nothing to be looked for: of nearly every chunk."""
        return self.model_fields_set.isdisjoint(_OF_REASONING) and not isinstance(self.content, list)


_OF_REASONING = ReasoningFields.model_fields.keys() - {"content"}


class ReasoningAssembler:
    """Puts the reasoning of one reply together."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._form: str | None = None
        self._details: list[dict[str, Any]] = []
        self._extra: dict[str, Any] = {}

    def add(self, fields: ReasoningFields) -> bool:
        """Take what a chunk or a message brings; return whether it brought anything."""
        if fields.has_text_alone:
            return False
        form, text = self._said(fields)
        if text:
            self._form = form
            self._texts.append(text)
        for detail in fields.reasoning_details or ():
            self._add_detail(detail)
        if fields.extra_content:
            self._extra |= fields.extra_content
        return bool(text or fields.reasoning_details or fields.extra_content)

    def build(self) -> tuple[str, dict[str, Any]]:
        """The reasoning's text, and what its provider wants back with it."""
        data: dict[str, Any] = {}
        if self._form is not None:
            data["form"] = self._form
        if self._details:
            data["reasoning_details"] = self._details
        if self._extra:
            data["extra_content"] = self._extra
        return "".join(self._texts), data

    @staticmethod
    def _said(fields: ReasoningFields) -> tuple[str, str]:
        if isinstance(fields.content, list):
            return "thinking", "".join([_text_of(part.thinking) for part in fields.content])
        if fields.reasoning_content:  # vLLM sent it under both names for a while
            return "reasoning_content", fields.reasoning_content
        return "reasoning", fields.reasoning or ""

    def _add_detail(self, piece: dict[str, Any]) -> None:
        """Take a detail, or a piece of the one that came last: the same index and type.

        Source: https://openrouter.ai/docs/guides/best-practices/reasoning-tokens
        """
        last = self._details[-1] if self._details else {}
        same = "index" in piece and all(last.get(name) == piece.get(name) for name in ("index", "type"))
        if not same:
            self._details.append(dict(piece))
            return
        for name, value in piece.items():
            if name in ("text", "summary", "data") and isinstance(last.get(name), str) and isinstance(value, str):
                last[name] += value
            elif value is not None:
                last[name] = value


class TagSplitter:
    """Splits reasoning in tags from the answer behind it: fed pieces cut anywhere, it returns those of the answer."""

    def __init__(self) -> None:
        self._state: Literal["begin", "inside", "behind", "answer"] = "begin"
        self._held = ""
        """What may be a part of a tag."""
        self._closing = ""
        self._parts: list[str] = []

    @property
    def reasoning(self) -> str:
        """What stood in the tags."""
        return "".join(self._parts).strip()

    def feed(self, text: str) -> str:
        """Take more of the text; return what of it belongs to the answer."""
        if self._state == "answer":
            return text
        self._held += text
        if self._state == "begin":
            self._look_for_opening()
        if self._state == "inside":
            self._look_for_closing()
        if self._state == "behind":
            self._held = self._held.lstrip()
            self._state = "answer" if self._held else "behind"
        return self._take() if self._state == "answer" else ""

    def end(self) -> str:
        """Return what was held back, unless it is reasoning."""
        if self._state == "inside":
            self._parts.append(self._take())
        return self._take()

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held

    def _look_for_opening(self) -> None:
        begin = self._held.lstrip()
        for opening, closing in TAGS:
            if begin.startswith(opening):
                self._state, self._closing, self._held = "inside", closing, begin[len(opening) :]
                return
        if not any(opening.startswith(begin) for opening, _ in TAGS):
            self._state = "answer"

    def _look_for_closing(self) -> None:
        reasoning, found, rest = self._held.partition(self._closing)
        if found:
            self._parts.append(reasoning)
            self._state, self._held = "behind", rest
            return
        sizes = range(min(len(self._closing) - 1, len(self._held)), 0, -1)
        kept = next((size for size in sizes if self._held.endswith(self._closing[:size])), 0)
        self._parts.append(self._held[: len(self._held) - kept])
        self._held = self._held[len(self._held) - kept :]


def _text_of(thinking: Any) -> str:
    if isinstance(thinking, str):
        return thinking
    parts = cast("list[Any]", thinking) if isinstance(thinking, list) else []
    return "".join([_text_of(part["text"]) for part in parts if isinstance(part, dict) and "text" in part])
