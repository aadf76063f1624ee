"""Responses, as the OpenAPI document has them. Errors are defined once and referred to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from .openapi_schemas import Problem, reference
from .problem import MEDIA_TYPE as PROBLEM_TYPE

PROBLEMS = {
    400: "The request is malformed.",
    401: "The credentials are missing or wrong.",
    403: "A web page of this origin may not call, or the caller may not do this or act for the user that it names.",
    404: "There is no such thing, or it is another user's.",
    408: "The request body did not come in in time.",
    409: "It cannot be done now: the run was cancelled, or has ended already, or the delivery is being handled, or the "
    "request has a `Last-Event-ID` and began a run already: `events` says where its events are.",
    413: "The request body is too large.",
    415: "The request body is of a type that is not understood.",
    421: "The service does not answer to this host name.",
    422: "A field is wrong or missing; `errors` names it.",
    500: "The service failed.",
    502: "The model's provider failed.",
    503: "The service is saturated or stopping; try again later.",
    504: "The model's provider, or the run, did not end in time.",
}
"""What each error status means here."""

PROBLEM_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
}

LOCATION: dict[str, Any] = {"Location": {"description": "Where the run can be followed.", "schema": {"type": "string"}}}


def problem_responses() -> dict[str, Any]:
    """The definitions that `problems` refers to."""
    return {component(status): problem_response(status) for status in PROBLEMS}


def problem_response(status: int) -> dict[str, Any]:
    """The definition of one error response."""
    response: dict[str, Any] = {
        "description": PROBLEMS[status],
        "content": {PROBLEM_TYPE: {"schema": reference(Problem)}},
    }
    headers = PROBLEM_HEADERS.get(status)
    return response if headers is None else response | {"headers": headers}


def problems(statuses: Iterable[int]) -> dict[str, Any]:
    """References to error responses, by status."""
    return {str(status): {"$ref": f"#/components/responses/{component(status)}"} for status in statuses}


def component(status: int) -> str:
    """The name of an error response among the document's components."""
    return f"Problem{status}"


def json_answer(description: str, *models: type[BaseModel]) -> dict[str, Any]:
    """A JSON response: one model, or one of several."""
    references = [reference(model) for model in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
