"""A webhook's event on its way through the event bus and back: JSON-able, since a bus may be more than memory. Pure."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from definable.agent.auth.base import AuthContext
from definable.agent.trigger.base import RawRequest, TriggerEvent
from definable.agent.trigger.headers import Headers

from .http.body import parsed


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
            "auth": None if auth is None else [auth.user_id, dict(auth.metadata), auth.may_act_for_others],
        },
    }


def accepted_request(data: Mapping[str, Any]) -> tuple[Any, RawRequest]:
    """The parsed body and the request of an event whose delivery comes out of the bus."""
    request: Mapping[str, Any] = data["request"]
    headers = Headers(dict(request["headers"]))
    client, auth = request["client"], request["auth"]
    raw = RawRequest(
        method=request["method"],
        path=request["path"],
        path_params=request["path_params"],
        query=request["query"],
        headers=headers,
        body=b64decode(request["body"]),
        client=None if client is None else (client[0], client[1]),
        auth=None if auth is None else AuthContext(*auth),
        scheme=request.get("scheme", "http"),  # not in what earlier versions stored
        raw_path=request.get("raw_path", "").encode("latin-1"),
        query_string=request.get("query_string", ""),
    )
    return parsed(headers.get("content-type", ""), raw.body), raw
