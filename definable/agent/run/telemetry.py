"""OpenTelemetry spans of runs, model calls, tool calls and triggers, by the GenAI semantic conventions.

The run loop, the runner and the dispatcher open them. Without the extra `otel`, or where no tracer provider has been
set, a span is one shared object that does nothing. What users and models say is never recorded: names, ids, counts and
errors are.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and gen-ai-agent-spans/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from definable.agent.trigger.base import BaseTrigger, TriggerEvent
    from definable.model.message import Model, ModelReply

    from .context import RunContext
    from .output import RunOutput, ToolExecution

NAME = "definable"
"""The instrumentation scope."""


class Span(Protocol):
    """A span that is open while its context is; what leaves the context is its error. By default it records nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def replied(self, reply: ModelReply) -> None:
        """Record what a model call came to."""

    def called(self, execution: ToolExecution) -> None:
        """Record what a tool call came to."""

    def completed(self, output: RunOutput) -> None:
        """Record what a run came to."""


class UnrecordedSpan(Span):
    __slots__ = ()


NO_SPAN = UnrecordedSpan()
"""Where nobody traces."""


def run_span(agent: str, model: Model, context: RunContext, headers: Mapping[str, str] | None = None) -> Span:
    """The span of a run: `invoke_agent {agent}`, internal.

    Args:
        agent: The agent's name.
        model: What it asks.
        context: The run's.
        headers: Of the HTTP request that asks for it: a `traceparent` (W3C Trace Context) makes it part of the sender's
            trace, unless a span is open around it already.
    """
    tracer = active_tracer()
    if tracer is None:
        return NO_SPAN
    return recording()(
        tracer,
        f"invoke_agent {agent}",
        "INTERNAL",
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": getattr(model, "provider", type(model).__name__),
            "gen_ai.agent.name": agent,
            "gen_ai.conversation.id": context.session_id,
            "gen_ai.request.model": model.id,
            "definable.run.id": context.run_id,
        },
        headers,
    )


def chat_span(model: Model, context: RunContext) -> Span:
    """The span of one request to a model: `chat {model}`, a client's."""
    tracer = active_tracer()
    if tracer is None:
        return NO_SPAN
    return recording()(
        tracer,
        f"chat {model.id}",
        "CLIENT",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": getattr(model, "provider", type(model).__name__),
            "gen_ai.request.model": model.id,
            "gen_ai.conversation.id": context.session_id,
        },
    )


def tool_span(name: str, call_id: str) -> Span:
    """The span of one tool call: `execute_tool {tool}`, internal."""
    tracer = active_tracer()
    if tracer is None:
        return NO_SPAN
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": call_id,
        "gen_ai.tool.type": "function",
    }
    return recording()(tracer, f"execute_tool {name}", "INTERNAL", attributes)


def trigger_span(event: TriggerEvent, trigger: BaseTrigger, *, waited_for: bool) -> Span:
    """The span of one handling of an event: its handler and the run that it asks for.

    A server's where a webhook's sender waits, a consumer's for what comes from the event bus. A `traceparent` header
    (W3C Trace Context), of a webhook or of a run that was accepted for later, makes it part of the sender's trace,
    unless a span is open around it already.

    Args:
        event: What is handled.
        trigger: What fired; its source is the route: `"POST /github/{repo}"`.
        waited_for: Whether somebody waits for the answer.
    """
    tracer = active_tracer()
    if tracer is None:
        return NO_SPAN
    route = trigger.source
    attributes: dict[str, Any] = {"definable.trigger.id": event.id, "definable.trigger.attempt": event.attempt}
    if event.raw is not None:
        method, _, path = route.partition(" ")
        attributes |= {"http.request.method": method, "http.route": path}
    if not waited_for:
        attributes |= {
            "messaging.system": "definable",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": route,
            "messaging.message.id": event.id,
        }
    name, kind = (route, "SERVER") if waited_for else (f"process {route}", "CONSUMER")
    return recording()(tracer, name, kind, attributes, event.headers)


def trace_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Those of a request's headers that say which trace it belongs to; none where nobody traces."""
    if not headers or active_tracer() is None:
        return {}
    from .telemetry_span import trace_fields  # imports the extra

    return {name: headers[name] for name in trace_fields() if name in headers}


def active_tracer() -> Tracer | None:
    """Our tracer; None where the extra is not installed, or no tracer provider has been set."""
    find = tracer_finder()
    return None if find is None else find()


@cache
def tracer_finder() -> Callable[[], Tracer | None] | None:
    """What finds the tracer; None without the extra."""
    try:
        from opentelemetry import trace  # an extra, loaded by the first run
    except ImportError:
        return None
    from definable import __version__

    by_environment = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ

    def find() -> Tracer | None:
        # `get_tracer_provider` reads the environment each time, which costs more than all else here; where the private
        # name is gone, it is asked.
        if not by_environment and getattr(trace, "_TRACER_PROVIDER", trace) is None:
            return None
        provider = trace.get_tracer_provider()
        if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            return None
        return provider.get_tracer(NAME, __version__)

    return find


@cache
def recording() -> Callable[..., Span]:
    """The class of spans that are recorded; there is one where there is a tracer."""
    from .telemetry_span import RecordedSpan  # imports the extra

    return RecordedSpan
