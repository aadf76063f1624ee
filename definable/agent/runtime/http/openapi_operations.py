"""The built-in endpoints, as the OpenAPI document has them; `openapi.py` adds who may call them."""

from __future__ import annotations

from typing import Any

from .endpoints.run import RunBody
from .endpoints.runs import DEFAULT_LIMIT, MAX_LIMIT, PLACE
from .openapi_responses import LOCATION, json_answer, problems
from .openapi_schemas import CompletedRun, Event, Health, Run, RunList, RunState, Session, reference
from .sse import MEDIA_TYPE as EVENT_STREAM

EVENT_STREAM_EXAMPLE = """\
id: 1
event: run_started
data: {"run_id":"run_1","session_id":"session_1"}

id: 2
event: text_delta
data: {"text":"hello"}

"""

STREAM: dict[str, Any] = {EVENT_STREAM: {"schema": reference(Event), "example": EVENT_STREAM_EXAMPLE}}
"""Before OpenAPI 3.2 there is no other place for the schema of one event than that of the stream."""

PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async` answers 202 at once and makes the run in the background (RFC 7240).",
    "schema": {"type": "string"},
}

LAST_EVENT_ID: dict[str, Any] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The last event that the client has: those after it are sent.",
    "schema": {"type": "string", "pattern": "^[0-9]*$"},
}

LIMIT: dict[str, Any] = {
    "name": "limit",
    "in": "query",
    "description": "How many runs are wanted at most.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
}

AFTER: dict[str, Any] = {
    "name": "after",
    "in": "query",
    "description": "The `next` of the page before.",
    "schema": {"type": "string", "pattern": f"^{PLACE.pattern}$"},
}

PREFERENCE_APPLIED: dict[str, Any] = {
    "Preference-Applied": {"description": "`respond-async`.", "schema": {"type": "string"}}
}


def built_in_paths() -> dict[str, dict[str, Any]]:
    """The built-in paths with their guarded operations, by method; `/health`, which nobody guards, aside."""
    return {
        "/run": {"post": run()},
        "/runs": {"get": list_runs()},
        "/runs/{run_id}": {"get": show_run(), "delete": cancel_run()},
        "/runs/{run_id}/events": {"get": follow_run()},
        "/sessions/{session_id}": {"get": show_session(), "delete": forget_session()},
    }


def run() -> dict[str, Any]:
    answer = json_answer("The run has ended well; as events, it has begun.", Run)
    accepted = json_answer("The run is queued.", RunState)
    return {
        "operationId": "run",
        "tags": ["runs"],
        "summary": "Run the agent",
        "description": "A client that goes away cancels the run that it waits for.",
        "parameters": [PREFER],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": reference(RunBody), "example": {"input": "hello"}}},
        },
        "responses": {
            "200": answer | {"content": answer["content"] | STREAM},
            "202": accepted | {"headers": LOCATION | PREFERENCE_APPLIED},
            **problems([400, 404, 408, 409, 413, 415, 422, 502, 504]),
        },
    }


def list_runs() -> dict[str, Any]:
    return {
        "operationId": "list_runs",
        "tags": ["runs"],
        "summary": "List recent and active runs",
        "description": "Queued runs, then active, then ended ones, each newest first. A run that goes on between two "
        "pages may be in both; none is missed.",
        "parameters": [LIMIT, AFTER],
        "responses": {"200": json_answer("The runs.", RunList), **problems([422])},
    }


def show_run() -> dict[str, Any]:
    return {
        "operationId": "show_run",
        "tags": ["runs"],
        "summary": "Show a run",
        "parameters": [in_path("run_id")],
        "responses": {"200": json_answer("The run.", CompletedRun, RunState), **problems([404])},
    }


def cancel_run() -> dict[str, Any]:
    return {
        "operationId": "cancel_run",
        "tags": ["runs"],
        "summary": "Cancel a run",
        "parameters": [in_path("run_id")],
        "responses": {"202": {"description": "The run is being cancelled."}, **problems([404, 409])},
    }


def follow_run() -> dict[str, Any]:
    return {
        "operationId": "follow_run",
        "tags": ["runs"],
        "summary": "Follow a run",
        "description": "Leaving does not cancel the run. A stream that ends without a last event was cut off, say by a "
        "stop of a service on a durable bus: follow the run again with `Last-Event-ID`.",
        "parameters": [in_path("run_id"), LAST_EVENT_ID],
        "responses": {
            "200": {"description": "The run's events, until it ends.", "content": STREAM},
            "204": {"description": "The client has the last event already."},
            **problems([400, 404, 413]),
        },
    }


def show_session() -> dict[str, Any]:
    return {
        "operationId": "show_session",
        "tags": ["sessions"],
        "summary": "Show a session with its history",
        "parameters": [in_path("session_id"), ACTING_FOR],
        "responses": {"200": json_answer("The session.", Session), **problems([404, 409])},
    }


def forget_session() -> dict[str, Any]:
    return {
        "operationId": "forget_session",
        "tags": ["sessions"],
        "summary": "Forget a session",
        "parameters": [in_path("session_id"), ACTING_FOR],
        "responses": {"204": {"description": "The session is forgotten."}, **problems([404, 409])},
    }


def health() -> dict[str, Any]:
    """The operation of `/health`, which everybody may ask."""
    return {
        "operationId": "health",
        "tags": ["service"],
        "summary": "Show how the service is",
        "responses": {
            "200": json_answer("All is well.", Health),
            "503": json_answer("The service is stopping, or a part of it is down.", Health),
        },
        "security": [],
    }


ACTING_FOR: dict[str, Any] = {
    "name": "user_id",
    "in": "query",
    "description": "Whom a caller acts for that may act for others.",
    "schema": {"type": "string"},
}


def in_path(name: str) -> dict[str, Any]:
    """A path parameter."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
