"""Bodies with a `Content-Encoding`."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import zlib
from typing import Any

import pytest
from loopback.agent_api import Recorder, Serve, agent_with, assert_problem, serve_ourselves

from definable.agent import Agent
from definable.agent.auth import GitHubSignature
from definable.agent.trigger import Webhook

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b'{"a": 1}')),
        ("GZIP", gzip.compress(b'{"a"') + gzip.compress(b": 1}")),
        ("x-gzip", gzip.compress(b'{"a": 1}')),
        ("deflate", zlib.compress(b'{"a": 1}')),
        ("identity", b'{"a": 1}'),
        ("", b'{"a": 1}'),
    ],
    ids=["gzip", "two-members", "x-gzip", "deflate", "identity", "none"],  # compressed bytes hold the time
)
async def test_a_handler_gets_what_was_compressed(respond: Any, coding: str, body: bytes) -> None:
    handler = Recorder()
    async with serve_ourselves(agent_with(Webhook("/hook", respond=respond), handler)) as client:
        response = await client.post("/hook", content=body, headers=JSON | {"content-encoding": coding})
        assert response.status_code in (200, 202)
    [event] = handler.events
    assert event.raw is not None
    assert (event.body, event.raw.body) == ({"a": 1}, b'{"a": 1}')


async def test_a_run_may_be_asked_for_compressed(serve: Serve) -> None:
    async with serve(Agent("offline")) as client:
        content = gzip.compress(b'{"input": "hi"}')
        response = await client.post("/run", content=content, headers=JSON | {"content-encoding": "gzip"})
        assert response.json()["content"] == "hi"


@pytest.mark.parametrize("path", ["/hook", "/run"])
@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_another_coding_is_a_415_that_says_what_is_understood(path: str, coding: str) -> None:
    handler = Recorder()
    async with serve_ourselves(agent_with(Webhook("/hook"), handler)) as client:
        response = await client.post(path, content=b"{}", headers=JSON | {"content-encoding": coding})
        assert_problem(response, 415)
        assert response.headers["accept-encoding"] == "gzip, deflate"
        assert coding in response.json()["detail"]
    assert handler.events == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(b"[" + b" " * 99_998 + b"]"), 200),
        (gzip.compress(b"[" + b" " * 99_999 + b"]"), 413),
        (gzip.compress(bytes(50_000_000)), 413),
        (gzip.compress(b" " * 50_001) * 2, 413),
        (gzip.compress(b"{}")[:-1], 400),
        (gzip.compress(b"{}")[:-8] + bytes(8), 400),
        (gzip.compress(b"{}") + b"more", 400),
        (gzip.compress(b" ") * 101, 400),
        (b"{}", 400),
    ],
    ids=["all", "one more", "bomb", "two members", "cut off", "wrong sum", "more", "many members", "not compressed"],
)
async def test_no_more_comes_out_than_max_body(serve: Serve, body: bytes, status: int) -> None:
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook", max_body=100_000), handler)) as client:
        response = await client.post("/hook", content=body, headers=JSON | {"content-encoding": "gzip"})
        assert response.status_code == status
        assert (await client.post("/hook")).status_code == 200
    assert len(handler.events) == (2 if status == 200 else 1)


async def test_a_signature_is_of_what_was_sent(serve: Serve) -> None:
    handler = Recorder()
    body = gzip.compress(b'{"a": 1}')
    signature = "sha256=" + hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    headers = JSON | {"content-encoding": "gzip", "x-hub-signature-256": signature}
    async with serve(agent_with(Webhook("/hook", auth=GitHubSignature("secret")), handler)) as client:
        assert (await client.post("/hook", content=body, headers=headers)).status_code == 200
        assert (await client.post("/hook", content=b'{"a": 1}', headers=headers)).status_code == 401
    [event] = handler.events
    assert event.body == {"a": 1}
