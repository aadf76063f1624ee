"""What a run adds up, turn by turn, and which replies are no part of it.

The run loop fills it; the runner keeps what was added with the session, and gives a failed run's account to its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from definable.agent.session.history import is_blank
from definable.errors import ContentFiltered, EmptyReply, ModelError, ModelResponseError, OutputTruncated, RunError
from definable.model.message import WHOLE, FinishReason, Message, ModelReply, Usage

from .output import ToolExecution

NO_USAGE = Usage()


@dataclass(slots=True)
class Conversation:
    """What a run adds up, turn by turn."""

    messages: list[Message] = field(default_factory=list[Message])
    """All that the model sees: instructions, history, and what this run added."""
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
        if reply.tool_calls or not is_blank(reply.content):
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
