"""What a run adds up and leaves behind, which replies are no part of it, and what a streamed run tells as it goes.

The events are seen by `async with agent.arun_stream(...)` and sent as server-sent events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from sys import getsizeof
from typing import TYPE_CHECKING, Any, TypeAlias

from definable.agent.session.history import History, repaired
from definable.errors import ContentFiltered, EmptyReply, ModelError, ModelResponseError, OutputTruncated, RunError
from definable.frozen import frozen
from definable.json_text import OVERHEAD, value_size
from definable.model.message import (
    WHOLE,
    FinishReason,
    Image,
    Message,
    ModelReply,
    ToolCall,
    Usage,
    messages_size,
)
from definable.original_library import OUTPUT_ATTRIBUTES, unknown_attribute

if TYPE_CHECKING:
    from definable.agent.tools.result import Button


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    """Accepted for later, not begun."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@frozen
class ToolExecution:
    """One tool call that a run made, with its end."""

    id: str
    name: str
    arguments: str
    """JSON text, as the model sent it."""
    result: str
    """What the model was told."""
    error: str | None = None
    """Why it failed; None when it did not."""
    duration: float = 0.0
    """Seconds."""
    media: tuple[Image, ...] = ()
    """Images that came with the result."""
    buttons: tuple[tuple[Button, ...], ...] = ()
    """For the chat, row by row."""


NO_USAGE = Usage()


@dataclass(slots=True)
class Conversation:
    """What a run adds up, turn by turn."""

    messages: list[Message] = field(default_factory=list[Message])
    """All that the model sees: instructions, history, and what this run added."""
    kept: History = field(default_factory=History)
    """What the session holds of before this run; not all of it may be sent."""
    history_begin: int = 0
    """Where what was said before this run begins."""
    begin: int = 0
    """Where this run's messages begin."""
    is_shortened: bool = False
    """Whether the history was shortened, since it was longer than the model takes."""
    tool_calls: list[ToolExecution] = field(default_factory=list[ToolExecution])
    requests: int = 0
    """Requests to the model."""
    usage: Usage = NO_USAGE
    model: str | None = None
    finish_reason: FinishReason = "stop"
    """Of the last reply."""

    @property
    def history(self) -> tuple[Message, ...]:
        """What was said before this run, as far as the model is told of it."""
        return tuple(self.messages[self.history_begin : self.begin])

    @property
    def added(self) -> tuple[Message, ...]:
        """What this run added, its input first."""
        return tuple(self.messages[self.begin :])

    def shorten(self, history: Sequence[Message]) -> None:
        """Put a shorter history in place of the one that is there."""
        self.messages[self.history_begin : self.begin] = history
        self.kept = repaired(tuple(history))
        self.begin = self.history_begin + len(history)
        self.is_shortened = True

    def account(self, error: RunError) -> None:
        """Have a run's failure tell what it had spent and done by then."""
        error.usage = self.usage
        error.messages = self.added
        error.tool_calls = tuple(self.tool_calls)


def failure_of(reply: ModelReply) -> ModelError | None:
    """Why a reply is no answer, and none of its tool calls may be made; None when it is whole."""
    reason = reply.finish_reason
    if reason in WHOLE:
        if reply.tool_calls or (reply.content and not reply.content.isspace()):
            return None
        return EmptyReply("the reply holds neither text nor a tool call")
    match reason:
        case "length":
            return OutputTruncated(
                f"the reply was cut off after {reply.usage.output_tokens} tokens: raise the model's limit (max_tokens, "
                "max_completion_tokens), or ask for less at a time"
            )
        case "content_filter":
            return ContentFiltered("the provider withheld the reply for what it says")
        case "error":
            return ModelResponseError("the provider failed in the middle of the reply")
        case _:
            return ModelResponseError(f"the reply is not whole: the provider says that it ended by {reason!r}")


@frozen
class RunOutput:
    """A run's result and account.

    Example:
        >>> from definable.agent import Agent
        >>> Agent(model="offline").run("hi").content
        'hi'
    """

    run_id: str
    session_id: str
    user_id: str | None = None
    content: Any = ""
    """The reply's text, or the validated object where the agent has an `output_type`."""
    messages: tuple[Message, ...] = ()
    """What this run added to the conversation, its input first."""
    tool_calls: tuple[ToolExecution, ...] = ()
    usage: Usage = field(default_factory=Usage)
    """Tokens, over all turns."""
    model: str | None = None
    """The model that answered, as the provider names it."""
    status: RunStatus = RunStatus.COMPLETED
    created_at: float = 0.0
    """Unix seconds."""
    duration: float = 0.0
    """Seconds from the call to the end."""
    finish_reason: FinishReason = "stop"
    """Why the last reply ended."""

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute("RunOutput", name, OUTPUT_ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run has its session's turn and begins."""

    run_id: str
    session_id: str


@frozen
class TextDelta:
    """A piece of the reply's text, as soon as the model gives it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A tool is being called."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolCallEnded:
    """A tool has answered, or failed; the run goes on."""

    execution: ToolExecution


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has come to its end; the last event. A run that fails raises instead."""

    output: RunOutput


RunEvent: TypeAlias = RunStarted | TextDelta | ToolCallStarted | ToolCallEnded | RunEnded

Listener: TypeAlias = Callable[[RunEvent], Awaitable[None]]
"""Is told each event in turn; the run waits for it."""


def output_size(output: RunOutput) -> int:
    """Bytes of a run's output; its content counts twice, as a part of its messages too, unless it is the same text."""
    size = OVERHEAD + messages_size(output.messages)
    if output.tool_calls:
        size += sum(map(execution_size, output.tool_calls))
    if output.messages and output.content is output.messages[-1].content:
        return size
    return size + (getsizeof(output.content) if isinstance(output.content, str) else value_size(output.content))


def execution_size(execution: ToolExecution) -> int:
    """Bytes of a tool call with its result."""
    return OVERHEAD + getsizeof(execution.arguments) + getsizeof(execution.result)


def event_size(event: RunEvent) -> int:
    """Bytes of an event of a run; of its end without the output, which the run's record holds."""
    match event:
        case TextDelta(text):
            return OVERHEAD + getsizeof(text)
        case ToolCallStarted(call):
            return OVERHEAD + getsizeof(call.arguments)
        case ToolCallEnded(execution):
            return OVERHEAD + execution_size(execution)
        case _:
            return OVERHEAD


def encoded_size(event: RunEvent) -> int:
    """Bytes of an event as it is sent, about."""
    if isinstance(event, RunEnded):
        output = event.output
        return OVERHEAD + value_size(output.content) + sum(map(execution_size, output.tool_calls))
    return event_size(event)
