"""What the HTTP API takes and gives, as pydantic models: each field stands here alone.

Endpoints and the event stream fill the models in with `Document.of`; `openapi.py` makes the JSON schemas from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from definable.agent.run.output import RunOutput, RunStatus
from definable.agent.runtime.runs import RunRecord
from definable.agent.session.base import Session as StoredSession
from definable.errors import RunError
from definable.model.message import Message as StoredMessage
from definable.model.message import Role

from .response import Document, problem_of


@dataclass(frozen=True, slots=True)
class Parameter:
    """A header or a query parameter that an endpoint looks at, for the OpenAPI document."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    """JSON schema of its value."""
    place: Literal["header", "query"] = "header"


class RunBody(BaseModel):
    """The body of `POST /run`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    input: str
    """What the user says."""
    session_id: str | None = Field(default=None, min_length=1, max_length=256)
    """The conversation to go on with; none begins one."""
    user_id: str | None = Field(default=None, min_length=1, max_length=256)
    """Whom the caller acts for."""
    metadata: dict[str, Any] | None = None
    """Anything, for tools and hooks."""
    keep: bool = True
    """Whether a conversation that it begins is stored, to be gone on with by the answer's `session_id`."""


class FieldError(Document):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(Document):
    """An error (RFC 9457)."""

    title: str
    status: int
    detail: str = ""
    """What went wrong with this request; absent when there is no more to say."""
    errors: list[FieldError] = Field(default=[])
    """Of a body with wrong fields: each of them."""


class ToolCall(Document):
    """A tool call that the model asked for."""

    id: str
    name: str
    arguments: str
    """JSON text, as the model sent it."""


class ToolExecution(ToolCall):
    """A tool call with its end."""

    result: str
    """What the model was told."""
    error: str | None
    """Why it failed; null when it did not."""
    duration: float
    """Seconds."""


class Usage(Document):
    """Tokens, over all turns of a run."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_tokens: int
    """Of the input tokens: those that the provider read from its cache."""
    reasoning_tokens: int
    """Of the output tokens: those that the model spent on thinking."""


class Run(Document):
    """A run that has ended well."""

    run_id: str
    session_id: str
    user_id: str | None
    status: RunStatus
    content: Any
    """The reply: its text, or the validated value where the agent has an output type."""
    model: str | None
    """The model that answered, as its provider names it."""
    finish_reason: str
    """Why the last reply ended."""
    usage: Usage
    tool_calls: list[ToolExecution]
    created_at: float
    """Unix seconds."""
    duration: float
    """Seconds."""


class CompletedRun(Run):
    """A run that has ended well, and where it came from."""

    source: str
    """The endpoint, trigger or interface that started it."""


class RunState(Document):
    """A run without an output: it is queued or running, has failed or was cancelled, or turned out not to be needed."""

    run_id: str
    session_id: str | None
    """Null until the run begins, unless it was asked for."""
    user_id: str | None
    status: RunStatus
    source: str
    """The endpoint, trigger or interface that started it."""
    created_at: float
    """Unix seconds."""
    problem: Problem | None = None
    """Why it failed or was cancelled; absent where neither happened."""
    usage: Usage | None = None
    """What it had cost when it failed; absent where that is not known."""


class RunSummary(Document):
    """A run in a list: less what was said in it."""

    run_id: str
    session_id: str | None
    user_id: str | None
    status: RunStatus
    source: str
    """The endpoint, trigger or interface that started it."""
    created_at: float
    """Unix seconds."""
    model: str | None = None
    """The model that answered; like the duration, absent unless the run has ended well."""
    usage: Usage | None = None
    """Tokens, of a failed run too; absent where they are not known."""
    duration: float | None = None
    """Seconds."""
    problem: Problem | None = None
    """Why it failed or was cancelled; absent where neither happened."""


class Event(Document):
    """One server-sent event of a run."""

    id: str
    """Its number within the run, from 1; ids grow, also over attempts that a restart begins anew."""
    event: Literal["run_started", "text_delta", "tool_call_started", "tool_call_ended", "run_ended", "run_failed"]
    """The last one of a run is `run_ended` or `run_failed`."""
    data: str = Field(json_schema_extra={"contentMediaType": "application/json"})
    """JSON; of `run_ended` the run or its state, of `run_failed` a problem."""


class RunList(Document):
    """A page of the runs that the caller may see: queued, active and ended ones, each newest first."""

    runs: list[RunSummary]
    next: str | None
    """The `after` of the next page; null on the last one."""


class Message(Document):
    """One message of a conversation."""

    role: Role
    content: str
    tool_calls: list[ToolCall] = Field(default=[])
    """What the model asked for; absent when it asked for nothing."""
    tool_call_id: str | None = None
    """Of a tool's result: the call that it answers; else absent."""


class Session(Document):
    """A conversation with its history."""

    session_id: str
    user_id: str | None
    messages: list[Message]
    created_at: float
    """Unix seconds."""
    updated_at: float
    """Unix seconds."""


class WebhookRun(Document):
    """The run that a webhook's handler asked for."""

    content: Any
    """The reply: its text, or the validated value where the agent has an output type."""
    run_id: str
    session_id: str


class Acknowledged(Document):
    """A delivery that no run is promised for: its handler asked for none, it was handled before, it is not wanted, or
    it waits for others about the same thing ("accepted")."""

    status: Literal["ok", "duplicate", "ignored", "accepted"]


class Accepted(Document):
    """A delivery that is handled later."""

    status: Literal["accepted"]
    run_id: str
    """The id of the run that may come of it."""


class ChildState(Document):
    """One part of the service."""

    state: str
    waiting: int = 0
    """Of `events`: deliveries that wait for a worker; absent elsewhere, and where the bus cannot say it."""
    oldest_seconds: float = 0.0
    """Of `events`: how long the oldest of them has waited; absent like `waiting`."""
    fired: int = 0
    """Of `cron`, as the following: firings that were handed to the event bus; absent elsewhere."""
    late: int = 0
    """Of those: more than a second after their time, within the job's `misfire_grace`."""
    skipped: int = 0
    """Of those: not handled, since the one before still was (`overlap="skip"`)."""
    missed: int = 0
    """Firings that came too late, or were overtaken by a later one of the same job."""


class Health(Document):
    """How the service is."""

    status: Literal["ok", "degraded", "draining"]
    agent: str
    children: dict[str, ChildState]
    """By name: the event workers, the cron loop, each interface."""


def run_document(output: RunOutput, namespace: str = "") -> dict[str, Any]:
    """A run that has ended well; its caller knows the session without the namespace."""
    return Run.of(
        output,
        session_id=output.session_id.removeprefix(namespace),
        status=output.status.value,  # which costs less to encode than a member of an enumeration
        usage=Usage.of(output.usage),
        tool_calls=[ToolExecution.of(execution) for execution in output.tool_calls],
    )


def record_document(record: RunRecord) -> dict[str, Any]:
    """A run wherever it stands; with the problem that ended it, where there was one."""
    if record.output is not None:
        return run_document(record.output, record.namespace) | {"source": record.source}
    session_id = record.session_id and record.session_id.removeprefix(record.namespace)
    document = RunState.of(record, session_id=session_id, status=record.status.value)
    if record.failure is None:
        return document
    document["problem"] = failure_document(record.failure)
    if isinstance(record.failure, RunError) and record.failure.usage is not None:
        document["usage"] = Usage.of(record.failure.usage)
    return document


def summary_document(record: RunRecord) -> dict[str, Any]:
    """A run in a list: where it stands and what it cost, without what was said in it."""
    document = record_document(record)
    return {name: document[name] for name in RunSummary.model_fields if name in document}


def failure_document(failure: Exception) -> dict[str, Any]:
    """Why a run has no output, as its caller may know it."""
    problem = problem_of(failure)
    return Problem.of(problem, detail=problem.detail)


def session_document(session: StoredSession, namespace: str = "") -> dict[str, Any]:
    """A session with its history; its caller knows it without the namespace."""
    session_id = session.session_id.removeprefix(namespace)
    return Session.of(session, session_id=session_id, messages=[message_document(each) for each in session.messages])


def message_document(message: StoredMessage) -> dict[str, Any]:
    """One message of a history."""
    document = Message.of(message)
    if message.tool_calls:
        document["tool_calls"] = [ToolCall.of(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    return document
