"""What the HTTP API says of runs and sessions, as JSON-able documents: pure."""

from __future__ import annotations

from typing import Any

from definable.agent.run.output import RunOutput, ToolExecution
from definable.agent.runtime.runs import RunRecord
from definable.agent.session.base import Session
from definable.model.message import Message

from .response import problem_of


def run_document(output: RunOutput, namespace: str = "") -> dict[str, Any]:
    """A run that has ended well.

    Args:
        output: What came of it.
        namespace: Of its caller, who knows the session without it.
    """
    return {
        "run_id": output.run_id,
        "session_id": output.session_id.removeprefix(namespace),
        "user_id": output.user_id,
        "status": output.status.value,
        "content": output.content,
        "model": output.model,
        "usage": {
            "input_tokens": output.usage.input_tokens,
            "output_tokens": output.usage.output_tokens,
            "total_tokens": output.usage.total_tokens,
        },
        "tool_calls": [execution_document(execution) for execution in output.tool_calls],
        "created_at": output.created_at,
        "duration": output.duration,
    }


def record_document(record: RunRecord) -> dict[str, Any]:
    """A run wherever it stands; with the problem that ended it, where there was one."""
    if record.output is not None:
        return run_document(record.output, record.namespace) | {"source": record.source}
    document: dict[str, Any] = {
        "run_id": record.run_id,
        "session_id": record.session_id and record.session_id.removeprefix(record.namespace),
        "user_id": record.user_id,
        "status": record.status.value,
        "source": record.source,
        "created_at": record.created_at,
    }
    if record.failure is not None:
        document["problem"] = failure_document(record.failure)
    return document


def summary_document(record: RunRecord) -> dict[str, Any]:
    """A run in a list: where it stands and what it cost, without what was said in it."""
    document = record_document(record)
    document.pop("content", None)
    document.pop("tool_calls", None)
    return document


def failure_document(failure: Exception) -> dict[str, Any]:
    """Why a run has no output, as its caller may know it."""
    problem = problem_of(failure)
    return {"title": problem.title, "status": problem.status, "detail": problem.detail}


def execution_document(execution: ToolExecution) -> dict[str, Any]:
    """A tool call with its end."""
    return {
        "id": execution.id,
        "name": execution.name,
        "arguments": execution.arguments,
        "result": execution.result,
        "error": execution.error,
        "duration": execution.duration,
    }


def session_document(session: Session, namespace: str = "") -> dict[str, Any]:
    """A session with its history; its caller knows it without the namespace."""
    return {
        "session_id": session.session_id.removeprefix(namespace),
        "user_id": session.user_id,
        "messages": [message_document(message) for message in session.messages],
        "created_at": session.created_at,
        "updated_at": session.updated_at,
    }


def message_document(message: Message) -> dict[str, Any]:
    """One message of a history."""
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        document["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    return document
