"""Whatever bytes come in: no 5xx of ours, no hang, no crash, and nobody else notices."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback.agent_api import raw_client, raw_run, serve_ourselves

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import Webhook

pytestmark = pytest.mark.anyio

EXAMPLES = int(os.environ.get("DEFINABLE_EXAMPLES", "50"))

FORM = b"POST /hook/x?a=%ff HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n"

VALID = [
    raw_run(b'{"input":"hi"}', b"x-api-key: k"),
    raw_run(b'{"input":"hi"}', b"x-api-key: k", b"accept: text/event-stream"),
    raw_run(b'{"input":"hi"}', b"x-api-key: k", b"prefer: respond-async"),
    raw_run(b'{"input":"hi"}', b"authorization: Bearer \xff\xfe"),
    b"GET /runs HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n\r\n",
    b"GET /own HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n\r\n",
    b"DELETE /sessions/%00 HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n\r\n",
    FORM + b"content-length: 7\r\n\r\na=1&b=2",
    FORM + b"transfer-encoding: chunked\r\n\r\n3\r\na=1\r\n4;x=y\r\n&b=2\r\n0\r\n\r\n",
    b"PUT /hook/x HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    b"content-length: 5\r\n\r\n--b--",
]

HEADERS = [
    b"content-length: 0",
    b"content-length: 14",
    b"content-length: 15",
    b"content-length: -1",
    b"content-length: +14",
    b"content-length: 14, 14",
    b"content-length: 99999999999999999999999999",
    b"content-length: 1000000000",
    b"content-length : 14",
    b"transfer-encoding: chunked",
    b"transfer-encoding: identity",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding:\x0bchunked",
    b"expect: 100-continue",
    b"upgrade: h2c\r\nconnection: upgrade",
    b"upgrade: websocket\r\nconnection: upgrade",
    b"connection: close",
    b"host: y",
    b"x: " + b"y" * 70_000,
    b"last-event-id: " + b"9" * 5_000,
    b"content-type: multipart/form-data; boundary=" + b"\xff" * 100,
    b"content-type: application/json; charset=\xff",
    b"prefer: " + b",;=" * 100,
    b"accept: \xff, text/event-stream;;;",
    b"x-api-key: k",
    b" folded: header",
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, valid or with something wrong in it."""
    head, _, body = draw(st.sampled_from(VALID)).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for header in draw(st.lists(st.sampled_from(HEADERS), max_size=3)):
        lines.insert(draw(st.integers(1, len(lines))), header)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@st.composite
def conversations(draw: st.DrawFn) -> Sequence[bytes]:
    """What a client sends: several requests at once, torn, garbled, cut off."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(data)))
        data = data[:start] + draw(st.binary(max_size=8)) + data[start + draw(st.integers(0, 8)) :]
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def agent() -> Agent:
    agent = Agent("offline", auth=APIKeyAuth("k"))
    for method in ("POST", "PUT"):
        agent.on(Webhook("/hook/{name}", method=method, auth=False, dedupe="x"))(lambda event: "hi")

    @agent.blueprint.get("/own")
    async def own() -> str:
        return "own"

    return agent


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(pieces=conversations())
async def test_any_bytes_do_no_harm(pieces: Sequence[bytes], caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    async with serve_ourselves(agent()) as client:
        async with raw_client(client) as raw:
            try:
                for piece in pieces:
                    await raw.send(piece)
                    await anyio.lowlevel.checkpoint()
                await raw.stream.send_eof()
            except (anyio.BrokenResourceError, OSError):
                pass
            with anyio.fail_after(5):
                answer = await raw.rest()
        assert (await client.get("/health")).status_code == 200
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]
    assert [status for status in statuses if status >= 500 and status not in (501, 505)] == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


SMUGGLED = b"GET /runs HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 0\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: %d" % len(SMUGGLED),
        b"content-length: 0\r\ncontent-length: %d" % len(SMUGGLED),
        b"content-length: 0, %d" % len(SMUGGLED),
        b"transfer-encoding: xchunked\r\ncontent-length: 0",
        b"transfer-encoding : chunked",
        b"content-length: 0x0",
    ],
)
async def test_a_request_in_the_body_of_another_is_not_heard(head: bytes) -> None:
    async with serve_ourselves(agent()) as client, raw_client(client) as raw:
        await raw.send(b"POST /hook/x HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n%b" % (head, SMUGGLED))
        answer = await raw.rest()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.split(b" ")[1] in (b"400", b"501")
    assert b'"runs"' not in answer


async def test_requests_in_one_packet_are_answered_in_order() -> None:
    async with serve_ourselves(agent()) as client, raw_client(client) as raw:
        bodies = [b'{"input":"number %d"}' % number for number in range(10)]
        await raw.send(b"".join(raw_run(body, b"x-api-key: k") for body in bodies))
        answer = b""
        for number in range(10):
            answer += await raw.until(b'"content":"number %d"' % number) if b"number %d" % number not in answer else b""
    assert [int(number) for number in re.findall(rb"number (\d)", answer)] == list(range(10))
