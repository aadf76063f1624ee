"""What travels between the run loop and a model, the same for every provider, and the `Model` protocol between them.

The run loop builds a `ModelRequest`, a `Model` answers with a `ModelReply` or streams `ModelDelta`s. The functions at
the end write messages as JSON values for the session stores: fields that hold their default are left out, and a reader
ignores fields that it does not know, so that an older version still reads what a newer one wrote.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

from definable.frozen import frozen, setters_of
from definable.json_text import OVERHEAD, value_size

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

FinishReason: TypeAlias = Literal["stop", "tool_calls", "length", "content_filter", "error"] | str
"""Why a reply ended: it is whole, whole and asks for tools, cut off, withheld, or the provider failed in the middle of
it. What a provider says besides is its own word: such a reply is no answer either."""

WHOLE: frozenset[FinishReason] = frozenset({"stop", "tool_calls"})
"""Of a reply that is all that the model had to say."""

OutputMode: TypeAlias = Literal["native", "tool", "prompt"]
"""How a model is asked for an answer that fits a schema: by the provider's own parameter, by a tool whose call is the
answer, or in the instructions."""


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
        provider_data: What the provider wants back with the call: JSON values, opaque to all but it.

    Example:
        >>> ToolCall("add", {"a": 1, "b": 2}, id="call_1")
        ToolCall(name='add', arguments='{"a": 1, "b": 2}', id='call_1')
    """

    name: str
    arguments: str
    """JSON text; may be malformed, it is the model's."""
    id: str
    provider_data: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    """Such as Gemini's thought signature. Replayed to the `provider` of the call's message alone."""

    def __init__(
        self,
        name: str,
        arguments: str | Mapping[str, Any] = "{}",
        id: str | None = None,
        provider_data: Mapping[str, Any] | None = None,
    ) -> None:
        _set_name(self, name)
        _set_arguments(self, arguments if isinstance(arguments, str) else json.dumps(dict(arguments)))
        _set_id(self, id if id is not None else f"call_{os.urandom(12).hex()}")
        _set_provider_data(self, provider_data)


_set_name, _set_arguments, _set_id, _set_provider_data = setters_of(ToolCall)


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
    """Of a user's message, or of a tool's result. A model that cannot see leaves them out; one whose provider takes no
    image in a tool's result sends them behind it."""
    reasoning: str = ""
    """Of an assistant's message: what the model thought before it answered. It is never shown as the answer."""
    provider: str | None = None
    """Of an assistant's message: whose `reasoning` and `provider_data` these are; they are replayed to nobody else."""
    provider_data: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    """What the provider wants back with the message: JSON values, opaque to all but it."""


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
    cached_tokens: int = 0
    """Of the input tokens: those that the provider read from its cache, which cost less."""
    reasoning_tokens: int = 0
    """Of the output tokens: those that the model spent on thinking."""

    @property
    def total_tokens(self) -> int:
        """What went in and what came out."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@frozen
class ModelReply:
    """A model's whole answer to one request."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    model: str | None = None
    """The model that answered, as the provider names it."""
    finish_reason: FinishReason = "stop"
    """Of anything but `stop` and `tool_calls` no tool is called, and the text is no answer."""
    reasoning: str = ""
    """What the model thought before it answered."""
    provider: str | None = None
    """Whose `reasoning` and `provider_data` these are; None: they are kept for nobody."""
    provider_data: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    """What the provider wants back with the message: JSON values, opaque to all but it."""


@frozen
class ModelDelta:
    """A piece of a streamed answer: some text, or, as the last one, the assembled reply."""

    text: str = ""
    reply: ModelReply | None = None
    """Set on the last delta of a stream, and on no other: the whole reply, tool calls and usage included."""


class ModelProfile(Protocol):
    """What a model's provider understands, as far as the run loop has to know: it asks for answers accordingly."""

    @property
    def tools(self) -> bool:
        """Whether it can call tools."""
        ...

    @property
    def json_schema(self) -> bool:
        """Whether an answer can be asked for by its JSON schema."""
        ...

    @property
    def json_schema_with_tools(self) -> bool:
        """Whether it can where there are tools as well."""
        ...


@runtime_checkable
class Model(Protocol):
    """A language model: one method for a whole reply, one for a stream.

    Implementations keep no state of a conversation: a request holds all. They must be cancellable at every await and
    raise `definable.errors.ModelError` (or one below it) when the provider fails, `ContextWindowExceeded` when the
    request is longer than the model takes. One may have an attribute `provider`, the name that spans have for its
    provider; without, its class's name is taken. One may have an attribute `profile`, a `ModelProfile`; without, its
    provider is taken to understand everything.
    """

    @property
    def id(self) -> str:
        """The model's name, as shown in outputs and logs."""
        ...

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Answer a request whole.

        Raises:
            ModelError: The provider failed.
        """
        ...

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelDelta]]:
        """Answer a request piece by piece: text deltas as they come, then one delta with the whole `reply`.

        A context manager, so that the connection is closed whenever the reader leaves.

        Raises:
            ModelError: The provider failed, also in the middle of a stream.
        """
        ...

    async def aclose(self) -> None:
        """Close what the model holds in the running event loop (connections); it may be used again afterwards."""
        ...


def message_to_json(message: Message) -> dict[str, Any]:
    """The message as a dict that `json.dumps` takes; bytes become base64 text."""
    value: dict[str, Any] = {"role": message.role}
    if message.content:
        value["content"] = message.content
    if message.tool_calls:
        value["tool_calls"] = [_call_to_json(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        value["tool_call_id"] = message.tool_call_id
    if message.images:
        value["images"] = [image_to_json(image) for image in message.images]
    if message.reasoning:
        value["reasoning"] = message.reasoning
    if message.provider is not None:
        value["provider"] = message.provider
    if message.provider_data:
        value["provider_data"] = dict(message.provider_data)
    return value


def message_from_json(value: object) -> Message:
    """The message that `message_to_json` made `value` from.

    Raises:
        ValueError: `value` is no such message.
    """
    try:
        fields = _mapping(value)
        return Message(
            fields["role"],
            fields.get("content", ""),
            tuple([_call_from_json(_mapping(call)) for call in fields.get("tool_calls", ())]),
            fields.get("tool_call_id"),
            tuple([image_from_json(_mapping(image)) for image in fields.get("images", ())]),
            fields.get("reasoning", ""),
            fields.get("provider"),
            fields.get("provider_data"),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message: {type(error).__name__}: {error}") from error


def _call_to_json(call: ToolCall) -> dict[str, Any]:
    value: dict[str, Any] = {"id": call.id, "name": call.name, "arguments": call.arguments}
    if call.provider_data:
        value["provider_data"] = dict(call.provider_data)
    return value


def _call_from_json(fields: Mapping[str, Any]) -> ToolCall:
    return ToolCall(fields["name"], fields["arguments"], fields["id"], fields.get("provider_data"))


def image_to_json(image: Image) -> dict[str, Any]:
    """The image as a dict: where it is, or its bytes as base64 text."""
    source = {"url": image.url} if image.data is None else {"data": b64encode(image.data).decode("ascii")}
    return {**source, "media_type": image.media_type}


def image_from_json(fields: Mapping[str, Any]) -> Image:
    """The image that `image_to_json` made `fields` from."""
    data = fields.get("data")
    return Image(
        fields.get("url"),
        None if data is None else b64decode(data, validate=True),
        fields.get("media_type", Image.media_type),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return cast("dict[str, Any]", value)


def messages_size(messages: Iterable[Message]) -> int:
    """Bytes of messages, their images and tool calls included."""
    size = 0
    for message in messages:  # every run comes through here: most messages are a text alone
        size += OVERHEAD + getsizeof(message.content)
        # What a provider wants back comes with calls, or with reasoning.
        if message.images or message.tool_calls or message.reasoning or message.provider is not None:
            size += _attachments_size(message)
    return size


def _attachments_size(message: Message) -> int:
    size = getsizeof(message.reasoning) if message.reasoning else 0
    if message.provider_data:
        size += value_size(message.provider_data)
    for image in message.images:
        size += OVERHEAD + len(image.data or b"") + len(image.url or "")
    for call in message.tool_calls:
        size += OVERHEAD + getsizeof(call.arguments)
        if call.provider_data:
            size += value_size(call.provider_data)
    return size
