"""A webhook's event goes through a bus that keeps JSON, and comes out as it was."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from definable.agent.auth import AuthContext
from definable.agent.runtime.ingress import accepted_request, request_data
from definable.agent.trigger import Headers, RawRequest, TriggerEvent

REQUEST = RawRequest(
    method="PUT",
    path="/github/definable",
    path_params={"repo": "definable"},
    query={"q": "1"},
    headers=Headers([(b"Content-Type", b"application/json"), (b"X-Name", "Zoë".encode("latin-1"))]),
    body=b'{"n": 1}',
    client=("127.0.0.1", 5000),
    auth=AuthContext("ann", {"role": "admin"}, may_act_for_others=True),
    scheme="https",
    raw_path=b"/github/%64efinable",
    query_string="q=%31",
)


def over_the_bus(request: RawRequest) -> tuple[Any, RawRequest]:
    return accepted_request(json.loads(json.dumps(request_data(TriggerEvent(raw=request)))))


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        dataclasses.replace(REQUEST, auth=None),
        dataclasses.replace(REQUEST, client=None),
        dataclasses.replace(REQUEST, auth=AuthContext("bob")),
    ],
)
def test_a_request_comes_out_as_it_went_in(request_: RawRequest) -> None:
    body, request = over_the_bus(request_)
    assert request == request_
    assert body == {"n": 1}


def test_a_body_that_is_no_text_comes_out_as_it_went_in() -> None:
    raw = bytes(range(256))
    body, request = over_the_bus(dataclasses.replace(REQUEST, headers=Headers(), body=raw))
    assert (body, request.body) == (None, raw)


def test_a_request_that_an_earlier_version_accepted_is_taken() -> None:
    data = request_data(TriggerEvent(raw=REQUEST))
    for name in ("scheme", "raw_path", "query_string"):
        del data["request"][name]
    _, request = accepted_request(data)
    assert request.url == "http:///github/definable"
