"""What the HTTP API takes and gives, as pydantic models: the schemas of the OpenAPI document are made from them.

`documents.py` makes the documents themselves; the tests hold the two together.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from definable.agent.run.output import RunStatus
from definable.model.message import Role

from .endpoints.run import RunBody

REF_TEMPLATE = "#/components/schemas/{model}"


class Document(BaseModel):
    """Anything that goes out; what each field is, its docstring says."""

    model_config: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True, defer_build=True)


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
    errors: list[FieldError] = []
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
    """The model that answered; like what follows, absent unless the run has ended well."""
    usage: Usage | None = None
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
    tool_calls: list[ToolCall] = []
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
    """A delivery that no run came of: its handler asked for none, it was handled before, or is not wanted."""

    status: Literal["ok", "duplicate", "ignored"]


class Accepted(Document):
    """A delivery that is handled later."""

    status: Literal["accepted"]
    run_id: str
    """The id of the run that may come of it."""


class ChildState(Document):
    """One part of the service."""

    state: str


class Health(Document):
    """How the service is."""

    status: Literal["ok", "degraded", "draining"]
    agent: str
    children: dict[str, ChildState]
    """By name: the event workers, the cron loop, each interface."""


RESPONSES: tuple[type[Document], ...] = (
    Run,
    CompletedRun,
    RunState,
    RunSummary,
    RunList,
    Event,
    Session,
    WebhookRun,
    Acknowledged,
    Accepted,
    Health,
    Problem,
)
"""What is answered; the models within them come along."""


class WithoutFieldTitles(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes of field names: they repeat them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def schemas() -> dict[str, Any]:
    """The JSON schemas (2020-12, as OpenAPI 3.1 has them) of all models, by name."""
    _, definitions = models_json_schema(
        [(RunBody, "validation"), *((model, "serialization") for model in RESPONSES)],
        ref_template=REF_TEMPLATE,
        schema_generator=WithoutFieldTitles,
    )
    return definitions["$defs"]


def reference(model: type[BaseModel]) -> dict[str, str]:
    """A reference to a model's schema."""
    return {"$ref": REF_TEMPLATE.format(model=model.__name__)}
