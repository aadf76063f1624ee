"""What a Chat Completions server answers to `ModelReply`: chunks, or a whole answer, to a reply. Pure.

`client.py` calls it; `completion.py` reads the JSON, `calls.py` and `reasoning.py` put their parts together.
"""

from __future__ import annotations

import json

from definable.errors import ModelResponseError
from definable.model.failure import NoReply, ProviderError, excerpt
from definable.model.message import WHOLE, FinishReason, ModelReply, ToolCall, Usage
from definable.model.sse import DONE, ErrorEvent

from .calls import CallAssembler, CallPiece, well_formed
from .completion import Choice, check_object, fields_of, parse, raise_reported, text_alone
from .reasoning import ReasoningAssembler, TagSplitter

_FINISH_REASONS: dict[str, FinishReason] = {
    name: reason
    for reason, names in {
        "stop": "stop end end_turn stop_sequence eos eos_token complete completed",
        "tool_calls": "tool_calls tool_call tool_use function_call",
        "length": "length max_tokens max_output_tokens model_length model_context_window_exceeded",
        "content_filter": "content_filter content_filtered safety recitation blocklist prohibited_content spii refusal "
        "sensitive",
        "error": "error failed abort aborted network_error insufficient_system_resource malformed_function_call",
    }.items()
    for name in names.split()
}
"""Of OpenAI, Google, Anthropic, Mistral, DeepSeek, Zhipu, TGI and vLLM, in lower case. Others stay as they are."""


class ReplyAssembler:
    """Puts a reply together: from chunks, or from one whole answer.

    Args:
        provider: Whose reasoning and opaque data the reply carries.
        think_tags: Whether the text may begin with its reasoning, in tags.
    """

    def __init__(self, provider: str | None = None, *, think_tags: bool = False) -> None:
        self._provider = provider
        self._splitter = TagSplitter() if think_tags else None
        self._texts: list[str] = []
        self._had_pieces = False
        """MiniMax ends its streams with the whole message, which has come in pieces before."""
        self._first: int | None = None
        """The choice that is the reply."""
        self._half = ""
        """Of a surrogate pair, whose other half the next chunk brings."""
        self._choices: dict[int, CallAssembler] = {}
        """The calls of each choice: Copilot puts them into a second one, beside the text of the first."""
        self._finish_reasons: dict[int, str] = {}
        self._reasoning = ReasoningAssembler()
        self._usage = Usage()
        self._model: str | None = None
        self._refused = False
        self.brought: bool = False
        """Whether what was added last was more than a sign of life."""
        self.is_over: bool = False
        """Whether the stream has said that it ends here."""
        self._strange = ""
        """An object that is neither a chunk nor, as far as can be seen, an error: for the message of what follows."""

    @property
    def has_choice(self) -> bool:
        """Whether anything of a reply came."""
        return self._first is not None

    @property
    def is_complete(self) -> bool:
        """Whether every choice that counts has come to its end."""
        awaited = {index for index, calls in self._choices.items() if calls}
        return bool(self._finish_reasons) and awaited <= self._finish_reasons.keys()

    def add(self, payload: str | bytes) -> str:
        """Take a whole answer, or the data of an event; return the text that it adds to the reply.

        Raises:
            ModelResponseError: It is no JSON, or no completion.
            ProviderError: It reports an error.
        """
        self.brought = False
        if isinstance(payload, ErrorEvent):
            raise ProviderError(_json_or_text(payload))
        try:
            return self._add(payload)
        except ModelResponseError:
            if not isinstance(payload, str):
                raise
            lines = [line for line in payload.splitlines() if line.strip() not in ("", DONE)]
            if lines == [payload]:
                raise
            self.is_over = not lines
            # A server that ends its events with one line break: by the standard they are one event of many lines.
            return "".join(map(self._add, lines))

    def _add(self, payload: str | bytes) -> str:
        plain = text_alone(payload) if isinstance(payload, str) else None
        if plain is not None:
            text, index, model = plain
            self._model = model or self._model
            if self._first is None or self._first == index:
                self._first = index
                return self._add_text(text, is_piece=True)
        completion = parse(payload)
        self._model = completion.model or self._model
        usage = completion.usage
        if usage is not None and (usage.prompt_tokens or usage.completion_tokens):
            self._usage = usage.tokens()
        if completion.choices is None:
            self._strange = check_object(payload) or self._strange
            return ""
        if len(completion.choices) == 1:
            return self._add_choice(completion.choices[0], 0)
        return "".join([self._add_choice(choice, at) for at, choice in enumerate(completion.choices)])

    def end(self) -> str:
        """Return the text that was held back, since it might have begun a tag."""
        text = self._splitter.end() if self._splitter else ""
        if text:
            self._texts.append(text)
        return text

    def broke_off(self) -> str:
        """What is missing of an answer that ended and is not complete."""
        if not self.has_choice:
            return "the model provider's stream ended before its first chunk"
        strange = f"; it holds {self._strange}" if self._strange else ""
        return f"the model provider's stream broke off: it ended without finish_reason{strange}"

    def reply(self) -> ModelReply:
        """The reply as far as it came."""
        self.end()
        reason = self._reason(self._first)
        built: tuple[ToolCall, ...] = ()
        for index, calls in self._choices.items():
            if calls:
                reason = self._reason(index) if reason in WHOLE else reason
                built = calls.build(cut_off=reason not in WHOLE)
                break
        if reason in WHOLE:
            reason = "content_filter" if self._refused and not built else "tool_calls" if built else "stop"
        reasoning, data = self._reasoning.build()
        if self._splitter is not None:
            reasoning = reasoning or self._splitter.reasoning
        return ModelReply(
            "".join(self._texts), built, self._usage, self._model, reason, reasoning, self._provider, data or None
        )

    def _reason(self, index: int | None) -> FinishReason:
        said = self._finish_reasons.get(index or 0, "stop")
        if said.lower().endswith("malformed_function_call"):  # "function_call_filter: ..." of Google's compatible API
            return "error"
        return _FINISH_REASONS.get(said.lower(), said)

    def _add_choice(self, choice: Choice, at: int) -> str:
        if choice.error is not None:
            raise_reported(choice.error)
        index = at or choice.index or 0  # two choices of one answer may bear one index
        self._first = index if self._first is None else self._first
        message = choice.delta or choice.message
        whole = choice.delta is None and choice.message is not None
        reason = choice.finish_reason if choice.finish_reason not in ("", "null") else None
        if reason is not None or whole:
            self._finish_reasons[index] = reason or "stop"
            self.brought = True
        if message is None:
            return ""
        repeated = whole and self._had_pieces
        if calls := message.calls():
            self._add_calls(calls, self._choices.setdefault(index, CallAssembler()), whole=whole)
        if repeated or index != self._first:  # one reply was asked for: of a second choice calls alone can belong to it
            return ""
        self._refused = self._refused or bool(message.refusal)
        self.brought = self._reasoning.add(message) or self.brought
        return self._add_text(message.text(), is_piece=not whole)

    def _add_text(self, text: str, *, is_piece: bool) -> str:
        text = self._whole(text)
        self.brought = self.brought or bool(text)
        self._had_pieces = self._had_pieces or (self.brought and is_piece)
        if self._splitter is not None:
            text = self._splitter.feed(text)
        if text:
            self._texts.append(text)
        return text

    def _add_calls(self, pieces: list[CallPiece], calls: CallAssembler, *, whole: bool) -> None:
        if not whole:
            self.brought = calls.add_pieces(pieces) or self.brought
        elif not calls:  # else they came in pieces before
            calls.add_whole(pieces)

    def _whole(self, text: str) -> str:
        """The text that may be handed out: without half an emoji at its end."""
        if self._half:
            text, self._half = self._half + text, ""
        if text.isascii():
            return text
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return well_formed(text)


def read_reply(body: bytes, provider: str | None = None, *, think_tags: bool = False) -> ModelReply:
    """Return the reply that a whole answer holds.

    Args:
        body: The answer.
        provider: Whose reasoning and opaque data the reply carries.
        think_tags: Whether the text may begin with its reasoning, in tags.

    Raises:
        ModelResponseError: It is no completion.
        NoReply: It holds no choice.
        ProviderError: It reports an error.
    """
    assembler = ReplyAssembler(provider, think_tags=think_tags)
    assembler.add(body)
    if not assembler.has_choice:
        raise NoReply(f"the model provider's answer holds no choices: {excerpt(body)}")
    return assembler.reply()


def _json_or_text(data: str) -> object:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return fields_of(value).get("error") or value
