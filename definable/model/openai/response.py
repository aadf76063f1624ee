"""What a Chat Completions server answers to `ModelReply`: bytes to events, chunks or a whole answer to a reply. Pure.

`client.py` and `stream.py` call it. It is lenient where compatible servers differ from OpenAI's: absent usage,
arguments as an object, missing ids and indexes. Sources:

- https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming
- https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from definable.errors import ModelResponseError
from definable.model.message import FinishReason, ModelReply, ToolCall, Usage

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class _Function(BaseModel):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(BaseModel):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Part(BaseModel):
    text: str | None = None


class _Message(BaseModel):
    """Of a whole reply the message, of a chunk what it adds."""

    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or self.refusal or ""


class _Choice(BaseModel):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    error: Any = None
    """OpenRouter's way to tell that the model behind it failed."""


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel):
    """A `chat.completion` or a `chat.completion.chunk`."""

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class ProviderError(Exception):
    """An error object inside an answer whose status was 200; `errors.py` says what it means."""

    def __init__(self, error: object) -> None:
        super().__init__(error)
        self.error = error


class ReplyAssembler:
    """Puts a reply together: from chunks, or from one whole answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._half = ""
        """Of a surrogate pair, whose other half the next chunk brings."""
        self._calls: list[_PartialCall] = []
        self._usage = Usage()
        self._model: str | None = None
        self._refused = False
        self.has_choice: bool = False
        """Whether anything of a reply came."""
        self.finish_reason: str | None = None
        """As the provider wrote it; None until the answer is complete."""

    def add(self, payload: str | bytes) -> str:
        """Take one JSON text; return the text that it adds to the reply.

        Raises:
            ModelResponseError: It is no JSON, or no completion.
            ProviderError: It reports an error.
        """
        completion = _parse(payload)
        if completion.error:
            raise ProviderError(completion.error)
        self._model = completion.model or self._model
        if completion.usage is not None:
            self._usage = Usage(completion.usage.prompt_tokens or 0, completion.usage.completion_tokens or 0)
        if not completion.choices:
            return ""
        choice = completion.choices[0]
        if choice.error:
            raise ProviderError(choice.error)
        return self._add_choice(choice)

    def reply(self) -> ModelReply:
        """The reply as far as it came."""
        calls = tuple(call.build() for call in self._calls)
        reason = _FINISH_REASONS.get(self.finish_reason or "", "stop")
        if calls and reason == "stop":
            reason = "tool_calls"
        if self._refused and reason == "stop":
            reason = "content_filter"
        return ModelReply("".join(self._texts), calls, self._usage, self._model, reason)

    def _add_choice(self, choice: _Choice) -> str:
        self.has_choice = True
        self.finish_reason = choice.finish_reason or self.finish_reason
        message = choice.delta or choice.message
        if message is None:
            return ""
        begun = len(self._calls)
        for call in message.tool_calls or ():
            is_piece = choice.delta is not None and call.index is not None
            self._slot(call, self._calls if is_piece else self._calls[:begun]).add(call)
        self._refused = self._refused or bool(message.refusal)
        text = self._whole(message.text())
        if text:
            self._texts.append(text)
        return text

    def _whole(self, text: str) -> str:
        """The text that may be handed out: without half an emoji at its end."""
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return _well_formed(text)

    def _slot(self, call: _Call, known: Sequence[_PartialCall]) -> _PartialCall:
        """The call that a piece belongs to: the one of its index, unless its id says that a new one begins.

        Some compatible servers send parallel calls all with index 0 or with none, told apart by their ids alone, or by
        nothing but their place in one message.

        Args:
            call: The piece.
            known: The calls that it may be a piece of.
        """
        for slot in reversed(known):
            same_index = call.index is None or slot.index == call.index
            if same_index and (not call.id or not slot.id or call.id == slot.id):
                return slot
        slot = _PartialCall(call.index)
        self._calls.append(slot)
        return slot


class _PartialCall:
    """A tool call on its way in."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id: str | None = None
        self._name = ""
        self._arguments: list[str] = []
        self._object: dict[str, Any] | None = None

    def add(self, piece: _Call) -> None:
        self.id = self.id or piece.id
        self._name = self._name or piece.function.name or ""
        if isinstance(piece.function.arguments, dict):
            self._object = piece.function.arguments
        elif piece.function.arguments:
            self._arguments.append(piece.function.arguments)

    def build(self) -> ToolCall:
        arguments = self._object if self._object is not None else _well_formed("".join(self._arguments)) or "{}"
        return ToolCall(self._name, arguments, self.id or None)


def read_reply(body: bytes) -> ModelReply:
    """Return the reply that a whole answer holds.

    Raises:
        ModelResponseError: It is no completion, or it holds no choice.
        ProviderError: It reports an error.
    """
    assembler = ReplyAssembler()
    assembler.add(body)
    if not assembler.has_choice:
        raise ModelResponseError(f"the model provider's answer holds no choices: {excerpt(body)}")
    return assembler.reply()


def excerpt(body: str | bytes, limit: int = 200) -> str:
    """The beginning of an answer, for an error's message."""
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def _well_formed(text: str) -> str:
    """Surrogate pairs joined, and halves without their other half replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parse(payload: str | bytes) -> _Completion:
    try:
        return _Completion.model_validate_json(payload)
    except ValidationError:
        return _parse_leniently(payload)


def _parse_leniently(payload: str | bytes) -> _Completion:
    """A chunk may end in the middle of an emoji, an escaped half of a surrogate pair: pydantic takes no such JSON."""
    try:
        return _Completion.model_validate(json.loads(payload))
    except (ValueError, RecursionError) as error:
        raise ModelResponseError(f"the model provider's answer is no chat completion: {excerpt(payload)}") from error


MAX_EVENT_BYTES = 16 * 2**20
"""Bytes that one event may hold: an endless line ends in an error and not in all of the memory."""

_BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event passed `MAX_EVENT_BYTES`."""


class SSEDecoder:
    """Incremental: feed it bytes cut anywhere, it yields the data of every event that is complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        """A line that has not ended yet."""
        self._data: list[bytes] = []
        self._size = 0
        self._started = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take more of the stream; yield the data of each event that ends in it.

        Raises:
            EventTooLong: An event is longer than any real one.
        """
        for line in self._lines(chunk) if chunk else ():
            if line:
                self._take_field(line)
            elif self._data:
                data = b"\n".join(self._data)
                self._data.clear()
                self._size = 0
                yield data.decode("utf-8", "replace")

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk.startswith(b"\n"):  # a CRLF that was cut in two
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        for line in chunk.splitlines(keepends=True):
            if not line.endswith((b"\n", b"\r")):
                self._rest += line
                return _check_size(len(self._rest))
            if self._rest:
                line = bytes(self._rest + line)
                self._rest.clear()
            yield self._without_bom(line.rstrip(b"\r\n"))

    def _without_bom(self, line: bytes) -> bytes:
        if self._started:
            return line
        self._started = True
        return line.removeprefix(_BOM)

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":  # other fields and comments (an empty name) say nothing here
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            _check_size(self._size)


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
