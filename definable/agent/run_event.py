"""What a streamed run tells, as it goes: seen by `async with agent.arun_stream(...)` and sent as server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from definable.model.message import ToolCall

from .run_output import RunOutput, ToolExecution


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run has its session's turn and begins."""

    run_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
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
