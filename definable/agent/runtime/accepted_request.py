"""What is accepted over HTTP on its way through the event bus and back: JSON-able, since a bus may be more than memory.

Bodies travel as text, not as the values that they are parsed into: 1 MiB of JSON may be 25 MiB of values, and what is
accepted may wait for long. Pure.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from definable.agent.auth.base import AuthContext
from definable.agent.memory_size import OVERHEAD, UNCOUNTED_BODY, parsed_size
from definable.agent.runner import RunRequest
from definable.agent.trigger.base import RawRequest, TriggerEvent
from definable.agent.trigger.headers import Headers

from .http.body import parsed

MAX_PARSED = 1024
"""Characters of JSON beyond which a body waits as text."""

PARSED_FACTOR = 25
"""Bytes that a character of JSON may hold once it is parsed: `{},` is a dict of 64 bytes and a reference."""


def run_data(run: RunRequest) -> tuple[dict[str, Any], int]:
    """What a delivery carries of a run that `POST /run` asks for, and how many bytes that holds in memory at most.

    A large one is JSON in ASCII: a byte a character, where one emoji would make it four. A small one stays as it is, to
    be read among dead letters.
    """
    asked = {"input": run.input, "session_id": run.session_id, "metadata": run.metadata}
    text = json.dumps(asked, separators=(",", ":"))
    if len(text) <= MAX_PARSED:
        return {"body": asked}, OVERHEAD + len(text) * PARSED_FACTOR
    return {"body_text": text}, OVERHEAD + len(text)


def data_size(data: Mapping[str, Any]) -> int:
    """Bytes that a waiting webhook holds in memory, about."""
    request = data["request"]
    return (
        OVERHEAD * (2 + len(request["headers"]))
        + len(request["body"])
        + sum(len(name) + len(value) for name, value in request["headers"])
    )


def handling_size(data: Mapping[str, Any]) -> int:
    """Bytes that the body of an accepted run or webhook holds while it is handled, about; 0 for what is small, and for
    other deliveries."""
    if "body_text" in data:
        text: str = data["body_text"]
        return parsed_size(text) if len(text) >= UNCOUNTED_BODY else 0
    if "request" in data:
        body: str = data["request"]["body"]
        return parsed_size(b64decode(body)) if len(body) >= UNCOUNTED_BODY else 0
    return 0


def auth_to_json(auth: AuthContext | None) -> list[Any] | None:
    """What a delivery carries of who asked for it."""
    if auth is None:
        return None
    scopes = None if auth.scopes is None else sorted(auth.scopes)
    return [auth.user_id, dict(auth.metadata), auth.may_act_for_others, scopes]


def auth_from_json(fields: Sequence[Any] | None) -> AuthContext | None:
    """The `AuthContext` of `auth_to_json`'s list, also of one that an older version wrote, without scopes."""
    if fields is None:
        return None
    scopes = fields[3] if len(fields) > 3 else None
    return AuthContext(fields[0], fields[1], fields[2], None if scopes is None else frozenset(scopes))


def request_data(event: TriggerEvent) -> dict[str, Any]:
    """What a delivery carries of a webhook's event: the body as it came, which is parsed again when it is handled."""
    raw = event.raw
    assert raw is not None
    auth: AuthContext | None = raw.auth
    return {
        "request": {
            "method": raw.method,
            "path": raw.path,
            "path_params": dict(raw.path_params),
            "query": dict(raw.query),
            "headers": list(raw.headers.items()),
            "body": b64encode(raw.body).decode(),
            "client": raw.client,
            "scheme": raw.scheme,
            "raw_path": raw.raw_path.decode("latin-1"),
            "query_string": raw.query_string,
            "auth": auth_to_json(auth),
        },
    }


def accepted_request(data: Mapping[str, Any]) -> tuple[Any, RawRequest]:
    """The parsed body and the request of an event whose delivery comes out of the bus."""
    request: Mapping[str, Any] = data["request"]
    headers = Headers(dict(request["headers"]))
    client = request["client"]
    raw = RawRequest(
        method=request["method"],
        path=request["path"],
        path_params=request["path_params"],
        query=request["query"],
        headers=headers,
        body=b64decode(request["body"]),
        client=None if client is None else (client[0], client[1]),
        auth=auth_from_json(request["auth"]),
        scheme=request.get("scheme", "http"),  # not in what earlier versions stored
        raw_path=request.get("raw_path", "").encode("latin-1"),
        query_string=request.get("query_string", ""),
    )
    return parsed(headers.get("content-type", ""), raw.body), raw
