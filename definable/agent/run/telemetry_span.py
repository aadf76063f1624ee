"""A recorded span: the one module that imports OpenTelemetry; `telemetry.py` loads it when there is a tracer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Self

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from definable.concurrency.isolation import UNREADABLE, error_message
from definable.errors import RunError
from definable.model.message import ModelReply, Usage

from .output import RunOutput, ToolExecution


class RecordedSpan:
    """An OpenTelemetry span, current in its context: the `telemetry.Span` that records.

    Args:
        tracer: What makes it.
        name: Its name.
        kind: The name of its `SpanKind`.
        attributes: What is known from the start.
        headers: Of a request, looked up in lower case: they may name a parent, which counts where no span is open
            already.
    """

    __slots__ = ("_span", "_token")

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        kind: str,
        attributes: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._span = tracer.start_span(name, parent_of(headers), SpanKind[kind], attributes)
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._failed(error)
        if self._token is not None:
            otel_context.detach(self._token)
        self._span.end()

    def replied(self, reply: ModelReply) -> None:
        """Record what a model call came to."""
        self._record_usage(reply.usage, reply.model)
        self._span.set_attribute("gen_ai.response.finish_reasons", (reply.finish_reason,))

    def called(self, execution: ToolExecution) -> None:
        """Record what a tool call came to."""
        if execution.error is not None:  # why is the model's to read, and may hold what users say
            self._span.set_attribute("error.type", "tool_error")
            self._span.set_status(Status(StatusCode.ERROR))

    def completed(self, output: RunOutput) -> None:
        """Record what a run came to."""
        self._record_usage(output.usage, output.model)

    def _record_usage(self, usage: Usage, model: str | None) -> None:
        self._span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
        self._span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens)
        if usage.cached_tokens:
            self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
        if usage.reasoning_tokens:
            self._span.set_attribute("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens)
        if model is not None:
            self._span.set_attribute("gen_ai.response.model", model)

    def _failed(self, error: BaseException) -> None:
        self._span.set_attribute("error.type", error_type(error))
        if isinstance(error, RunError) and error.usage is not None:  # a run's own: a failed call has spent nothing yet
            self._record_usage(error.usage, None)
        if isinstance(error, Exception):
            message = error_message(error)
            if message is UNREADABLE:  # `record_exception` would ask for it again
                self._span.add_event("exception", {"exception.type": error_type(error), "exception.message": message})
            else:
                self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, message))
        else:  # a cancellation: cut off from outside
            self._span.set_status(Status(StatusCode.ERROR, "cancelled"))


def parent_of(headers: Mapping[str, str] | None) -> Context | None:
    """The context whose span is the parent: the current one, unless only headers know of one."""
    if not headers or trace.get_current_span().get_span_context().is_valid:
        return None
    return propagate.extract(headers)


def trace_fields() -> Iterable[str]:
    """The names of the headers by which a request says which trace it belongs to."""
    return propagate.get_global_textmap().fields


def error_type(error: BaseException) -> str:
    """The qualified name of an exception's class."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
