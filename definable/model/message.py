"""What travels between the run loop and a model: frozen values, the same for every provider.

The run loop builds a `ModelRequest`, a `Model` answers with a `ModelReply` or streams `ModelDelta`s.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from definable.frozen import frozen

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

FinishReason: TypeAlias = Literal["stop", "tool_calls", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a message.

    Raises:
        ValueError: Neither or both of `url` and `data` are given.
    """

    url: str | None = None
    """An http(s) or data URL that the provider can read."""
    data: bytes | None = None
    """The encoded image itself."""
    media_type: str = "image/png"
    """The MIME type of `data`."""

    def __post_init__(self) -> None:
        if (self.url is None) == (self.data is None):
            raise ValueError("an Image needs exactly one of url= and data=")


@dataclass(frozen=True, slots=True, init=False)
class ToolCall:
    """A model's request to call one tool.

    Args:
        name: The tool's name.
        arguments: JSON text, as models send it, or a mapping, which is encoded.
        id: What the tool's result refers to; made up when None.

    Example:
        >>> ToolCall("add", {"a": 1, "b": 2}, id="call_1")
        ToolCall(name='add', arguments='{"a": 1, "b": 2}', id='call_1')
    """

    name: str
    arguments: str
    """JSON text; may be malformed, it is the model's."""
    id: str

    def __init__(self, name: str, arguments: str | Mapping[str, Any] = "{}", id: str | None = None) -> None:
        set_field = object.__setattr__  # the class is frozen
        set_field(self, "name", name)
        set_field(self, "arguments", arguments if isinstance(arguments, str) else json.dumps(dict(arguments)))
        set_field(self, "id", id if id is not None else f"call_{os.urandom(12).hex()}")


@frozen
class Message:
    """One message of a conversation."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's message: the tools that it asks for."""
    tool_call_id: str | None = None
    """Of a tool's message: the call that it answers."""
    images: tuple[Image, ...] = ()
    """Of a user's message."""


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool as a model sees it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema (2020-12) of the arguments, an object."""


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The JSON schema that a reply must fit."""

    name: str
    schema: Mapping[str, Any]


@frozen
class ModelRequest:
    """All that a model is asked."""

    messages: Sequence[Message]
    tools: Sequence[ToolDefinition] = ()
    output_schema: OutputSchema | None = None


@frozen
class Usage:
    """Tokens spent; adds up over the turns of a run."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """What went in and what came out."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@frozen
class ModelReply:
    """A model's whole answer to one request."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    model: str | None = None
    """The model that answered, as the provider names it."""
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """A piece of a streamed answer: some text, or, as the last one, the assembled reply."""

    text: str = ""
    reply: ModelReply | None = None
    """Set on the last delta of a stream, and on no other: the whole reply, tool calls and usage included."""
