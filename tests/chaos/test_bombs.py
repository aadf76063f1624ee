"""What is small on the wire and large inside, and what tries to break out of its place: refused, never opened."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.session import SQLiteSessionStore
from definable.agent.trigger import Reply, TriggerEvent, Webhook
from definable.testing import Served, served

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}

DEEP = 100_000

EXPANDED = 10_000_000
"""Bytes that a compressed bomb would be."""

PATHS = ("/run", "/wait", "/accept")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Served, None]:
    agent = Agent(
        "offline", bus=SQLiteBus(tmp_path / "events.db"), sessions=SQLiteSessionStore(tmp_path / "sessions.db")
    )

    @agent.on(Webhook("/wait"))
    async def wait(event: TriggerEvent) -> Reply:
        return Reply({"got": type(event.body).__name__})

    @agent.on(Webhook("/accept", respond="accept"))
    async def accept(event: TriggerEvent) -> None:
        return None

    @agent.on(Webhook("/echo"))
    async def echo(event: TriggerEvent) -> Reply:
        return Reply("", headers={"X-Echo": event.body})

    @agent.on(Webhook("/by/{name}"))
    async def by_name(event: TriggerEvent) -> None:
        raise ZeroDivisionError

    async with served(agent, dev=True) as service:
        yield service


async def assert_well(service: Served) -> None:
    assert (await service.client.post("/run", json={"input": "hi"})).status_code == 200
    assert (await service.client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP + b"]" * DEEP,
        b'{"input":' * DEEP + b"1" + b"}" * DEEP,
        b'{"input": "a", "metadata": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        b'{"input": "a", "metadata": {"n": ' + b"9" * 100_000 + b"}}",
        b'{"input": "a", "metadata": {"n": NaN}}',
        b'{"input": "\\ud800"}',
        b'{"input": "\xff"}',
    ],
    ids=["deep lists", "deep objects", "deep metadata", "long number", "not a number", "half a character", "no UTF-8"],
)
async def test_json_that_is_more_than_it_looks_is_malformed(service: Served, path: str, body: bytes) -> None:
    response = await service.client.post(path, content=body, headers=JSON)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    await assert_well(service)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_what_is_compressed_is_not_expanded_beyond_the_limit(service: Served, path: str, coding: str) -> None:
    plain = b'{"input": "' + b"a" * EXPANDED + b'"}'
    bomb = zlib.compress(plain) if coding == "deflate" else gzip.compress(plain, 1)
    response = await service.client.post(path, content=bomb, headers=JSON | {"Content-Encoding": coding})
    assert response.status_code == (413 if coding in ("gzip", "deflate") else 415)
    await assert_well(service)


async def test_a_form_of_many_fields_is_refused(service: Served) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    response = await service.client.post("/wait", content=b"a=1&" * 200_000, headers=form)
    assert response.status_code == 413
    await assert_well(service)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "\0", "\x7f", "日本"])
async def test_nobody_adds_a_header_through_another(service: Served, value: str) -> None:
    response = await service.client.post("/echo", json=value)
    assert response.status_code == 500
    assert "x-evil" not in response.headers
    await assert_well(service)


@pytest.mark.parametrize("name", ["a%0d%0aERROR forged", "a%0aERROR%20forged", "%1b%5b31m", "%00", "%ff"])
async def test_nobody_adds_a_line_to_the_log(service: Served, caplog: pytest.LogCaptureFixture, name: str) -> None:
    with caplog.at_level(logging.DEBUG, "definable"):
        await service.client.post(f"/by/{name}", json={})
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("definable")]
    assert messages
    for message in messages:
        assert "\x1b" not in message and "\0" not in message
        assert not any(line.startswith("ERROR") for line in message.splitlines())


@pytest.mark.parametrize(
    "path",
    [
        *("/docs/../../etc/passwd", "/docs/..%2f..%2fetc%2fpasswd", "/docs/%2e%2e/%2e%2e/etc/passwd"),
        *("/docs/..%5c..%5cetc", "/docs//etc/passwd", "/docs/%2fetc%2fpasswd", "/docs/%00", "/docs/swagger-ui.css%00"),
        *("/docs/....//....//etc/passwd", "/docs/index.html/../../__init__.py", "/docs/__init__.py"),
        *("/sessions/..%2f..%2fevents.db", "/runs/..%2f..", "/docs/" + "a" * 5_000),
    ],
)
async def test_no_path_leads_out_of_the_documentation(service: Served, path: str) -> None:
    # `httpx2.URL` would tidy the path up
    url = httpx2.URL(service.runtime.url or "", raw_path=path.encode())
    response = await service.client.get(url)
    assert response.status_code == 404
    assert json.loads(response.content)["status"] == 404
