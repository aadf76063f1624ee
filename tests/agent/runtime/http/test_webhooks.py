"""Webhooks: what their handlers get, how large and how slow it may be."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import anyio
import pytest
from loopback.agent_api import Held, Recorder, Serve, agent_with, assert_problem, raw_client, serve_ourselves

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.runtime.http import body as request_body
from definable.agent.trigger import Reply, Webhook
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

BIG = {"a": "\x00", "b": 1e99, "c": 123456789012345678901234567890}

PART = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n'


@pytest.mark.parametrize("respond", ["wait", "accept"])
async def test_a_handler_gets_the_whole_request(serve: Serve, respond: Any) -> None:
    handler = Recorder()
    agent = agent_with(Webhook("/github/{owner}/{repo}.git", respond=respond, auth=APIKeyAuth("k")), handler)
    async with serve(agent) as client:
        response = await client.post(
            "/github/ann/my%20repo.git?ref=a%26b&ref=c&empty=",
            content=b'{"x": [1, "\xc3\xa9"]}',
            headers={"Content-Type": "application/json; charset=utf-8", "X-GitHub-Event": "push", "X-API-Key": "k"},
        )
        assert response.status_code == (200 if respond == "wait" else 202)
        port = client.base_url.port
    [event] = handler.events
    assert (event.body, event.source, event.attempt) == ({"x": [1, "é"]}, "POST /github/{owner}/{repo}.git", 1)
    assert event.headers["x-github-event"] == event.headers["X-GitHub-Event"] == "push"
    raw = event.raw
    assert raw is not None
    assert (raw.method, raw.path) == ("POST", "/github/ann/my repo.git")
    assert raw.path_params == {"owner": "ann", "repo": "my repo"}
    assert raw.query == raw.query_params == {"ref": "c", "empty": ""}
    assert raw.query_string == "ref=a%26b&ref=c&empty="
    assert raw.url == f"http://127.0.0.1:{port}/github/ann/my%20repo.git?ref=a%26b&ref=c&empty="
    assert (raw.text, raw.json()) == ('{"x": [1, "é"]}', event.body)
    assert raw.body == b'{"x": [1, "\xc3\xa9"]}'
    assert raw.headers["host"] == f"127.0.0.1:{port}"
    assert raw.client is not None
    assert raw.client[0] == "127.0.0.1"
    assert raw.auth.user_id.startswith("apikey_")
    assert raw.auth.may_act_for_others


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_every_method_has_its_own_handler(serve: Serve, method: str) -> None:
    agent = Agent("offline")
    handlers = {name: Recorder() for name in ("GET", "POST", "PUT", "PATCH", "DELETE")}
    for name, handler in handlers.items():
        agent.on(Webhook("/hook", method=name))(handler)
    async with serve(agent) as client:
        assert (await client.request(method, "/hook")).json() == {"status": "ok"}
    assert [len(handler.events) for name, handler in handlers.items() if name != method] == [0] * 4
    [event] = handlers[method].events
    assert (event.source, event.body) == (f"{method} /hook", None)


async def test_paths_of_several_webhooks_that_fit_are_told_apart_by_method(serve: Serve) -> None:
    agent = Agent("offline")
    for path, method in [("/h/{a}", "GET"), ("/h/{b}", "POST"), ("/h/fixed", "PUT")]:
        agent.on(Webhook(path, method=method))(lambda event: Reply(json.dumps(dict(event.raw.path_params))))
    async with serve(agent) as client:
        assert (await client.get("/h/x")).json() == {"a": "x"}
        assert (await client.post("/h/x")).json() == {"b": "x"}
        assert (await client.put("/h/fixed")).json() == {}
        assert (await client.post("/h/fixed")).json() == {"b": "fixed"}
        response = await client.delete("/h/fixed")
        assert_problem(response, 405)
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "PUT"}
        assert_problem(await client.get("/h/x/y"), 404)


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b"[1]", [1]),
        ("application/cloudevents+json", b'{"a": null}', {"a": None}),
        ("application/json", b"", None),
        ("application/x-www-form-urlencoded", b"a=1&b=%C3%A9&a=2&c=", {"a": "2", "b": "é", "c": ""}),
        ("application/x-www-form-urlencoded", b'{"a": 1}', {"a": 1}),
        ("application/x-www-form-urlencoded", b"{a=1", {"{a": "1"}),
        ("application/x-www-form-urlencoded", b"1", {"1": ""}),
        ("text/plain; charset=utf-8", b"\xc3\xa9\xff", None),
        ("text/plain", b'{"a": 1}', {"a": 1}),
        ("text/plain; charset=UTF-8", b" \n[1, 2]", [1, 2]),
        ("text/plain", b'{"a": 1', None),
        ("text/plain", b"5", None),
        ("application/octet-stream", b"[1]", None),
        ("application/octet-stream", b"\x00\xff", None),
        ("application/xml", b"<a/>", None),
        (None, b"plain", None),
        (None, b' {"a": 1}', {"a": 1}),
        (None, b"[NaN", None),
        ("text/json", b'{"a": 1}', {"a": 1}),
        ("application/csp-report", b'{"a": 1}', {"a": 1}),
        ("application/json, application/json", b'{"a": 1}', {"a": 1}),
        ("application/json", b'{"a": "\\u0000", "b": 1e99, "c": 123456789012345678901234567890}', BIG),
        # --- charsets
        ("application/json", b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (None, b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ("application/json", '{"a": "é"}'.encode("utf-16"), {"a": "é"}),
        ("application/json; charset=utf-16", '{"a": "é"}'.encode("utf-16"), {"a": "é"}),
        ("application/json; charset=ISO-8859-1", b'{"a": "\xe9"}', {"a": "é"}),
        ('application/json; charset="windows-1252"', b'{"a": "\x80"}', {"a": "€"}),
        ("text/plain; charset=iso-8859-1", b'{"a": "\xe9"}', {"a": "é"}),
        ("application/x-www-form-urlencoded; charset=ISO-8859-1", b"a=Andr%E9&b=\xe9", {"a": "André", "b": "é"}),
        ("application/x-www-form-urlencoded", b"a=%80&charset=windows-1252", {"a": "€", "charset": "windows-1252"}),
        ("application/x-www-form-urlencoded", b"_charset_=euc-kr&a=%B0%A1", {"_charset_": "euc-kr", "a": "가"}),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n'
            b"content-type: text/plain; charset=iso-8859-1\r\n\r\ncaf\xe9\r\n--x--\r\n",
            {"a": "café"},
        ),
        # --- a form that holds JSON: GitHub, Slack
        ("application/x-www-form-urlencoded", b"payload=%7B%22a%22%3A+1%7D", {"a": 1}),
        ("application/x-www-form-urlencoded", b"payload=text", {"payload": "text"}),
        ("application/x-www-form-urlencoded", b"payload=%7B&", {"payload": "{"}),
        ("application/x-www-form-urlencoded", b"payload=%7B%7D&a=1", {"payload": "{}", "a": "1"}),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n\xc3\xa9\r\n'
            b'--x\r\ncontent-disposition: form-data; name="f"; filename="f.bin"\r\n\r\n\x00\xff\r\n--x--\r\n',
            {"a": "é", "f": b"\x00\xff"},
        ),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_bodies_are_parsed_by_their_type(
    respond: Any, content_type: str | None, body: bytes, expected: Any
) -> None:
    handler = Recorder()
    async with serve_ourselves(agent_with(Webhook("/hook", respond=respond), handler)) as client:
        headers = {} if content_type is None else {"content-type": content_type}
        assert (await client.post("/hook", content=body, headers=headers)).status_code in (200, 202)
    [event] = handler.events
    assert event.body == expected
    assert event.raw is not None
    assert event.raw.body == body


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b'{"a": Infinity}'),
        ("application/json", b'{"a": [1e400]}'),
        ("application/json", b'{"a": [[-1' + b"0" * 400 + b".5]]}"),
        ("application/json", b'{"a": "hi \\ud83d"}'),
        ("application/json", b'{"a": "\\ude00 hi"}'),
        ("application/json", b"[" * 100_000),
        ("application/json; charset=utf-16", b'{"a"}'),
        ("application/json; charset=utf-8", b'{"a": "\xe9"}'),
        ("application/x-www-form-urlencoded", b"a=Andr%E9"),
        ("application/x-www-form-urlencoded", b"a=%ED%A0%80"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"a=%E9&charset=iso-8859-1"),
        ("application/x-www-form-urlencoded", b"a=%E9&charset=punycode"),
        ("application/problem+json", b"\xff"),
        ("multipart/form-data; boundary=x", b"--x\r\nno end"),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=" + "x" * 71, b"--" + b"x" * 71 + b"--"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data\r\n\r\n1\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"a: b\r\n" * 17 + PART[5:] + b"--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\na: " + b"b" * 8_192 + b"\r\n" + PART[5:] + b"--x--"),
        ("multipart/form-data; boundary=x", b"--xy" + PART[3:] + b"--x--"),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_a_body_that_is_not_what_it_says_is_a_400(respond: Any, content_type: str, body: bytes) -> None:
    handler = Recorder()
    async with serve_ourselves(agent_with(Webhook("/hook", respond=respond), handler)) as client:
        response = await client.post("/hook", content=body, headers={"content-type": content_type})
        assert_problem(response, 400)
    assert handler.events == []


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"&".join(b"f%d=" % number for number in range(1_001))),
        ("multipart/form-data; boundary=x", PART * 1_001 + b"--x--"),
    ],
    ids=["urlencoded", "multipart"],
)
async def test_a_form_with_more_than_a_thousand_fields_is_a_413(respond: Any, content_type: str, body: bytes) -> None:
    handler = Recorder()
    async with serve_ourselves(agent_with(Webhook("/hook", respond=respond), handler)) as client:
        response = await client.post("/hook", content=body, headers={"content-type": content_type})
        assert_problem(response, 413)
        assert "more than 1,000" in response.json()["detail"]
    assert handler.events == []


@pytest.mark.parametrize("path", ["/hook", "/run"])
@pytest.mark.parametrize("charset", ["klingon", "punycode", "unicode_escape", "hex", "x" * 100])
async def test_a_charset_that_is_not_known_is_a_415_that_names_it(path: str, charset: str) -> None:
    handler = Recorder()
    async with serve_ourselves(agent_with(Webhook("/hook"), handler)) as client:
        headers = {"content-type": f"application/json; charset={charset}"}
        response = await client.post(path, content=b'{"input": "hi"}', headers=headers)
        assert_problem(response, 415)
        assert charset[:50] in response.json()["detail"]
    assert handler.events == []


async def test_a_query_with_more_than_a_thousand_parameters_is_a_400(serve: Serve) -> None:
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook"), handler)) as client:
        assert (await client.post(f"/hook?{'a=1&' * 999}a=2")).status_code == 200
        assert_problem(await client.post(f"/hook?{'a=1&' * 1_000}a=2"), 400)
    assert len(handler.events) == 1


# --- how large and how slow


async def test_a_body_beyond_max_body_is_not_read(serve: Serve) -> None:
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook", max_body=10), handler)) as client:
        assert (await client.post("/hook", content=b"x" * 10)).status_code == 200
        assert_problem(await client.post("/hook", content=b"x" * 11), 413)
        async with raw_client(client) as raw:
            await raw.send(b"POST /hook HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n6\r\n123456\r\n")
            await raw.send(b"5\r\n12345\r\n")
            assert b" 413 " in await raw.until(b"}")
    assert len(handler.events) == 1


async def test_a_body_without_end_is_answered_and_cut_off() -> None:
    handler = Recorder()
    async with serve_ourselves(agent_with(Webhook("/hook"), handler)) as client, raw_client(client) as raw:
        await raw.send(b"POST /hook HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        answers: list[bytes] = []
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:

                async def read() -> None:
                    answers.append(await raw.until(b"}"))

                group.start_soon(read)
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    while True:
                        await raw.send(b"10000\r\n%b\r\n" % (b"x" * 65_536))
    assert b" 413 " in answers[0]
    assert handler.events == []


async def test_a_slow_body_is_a_408(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "BODY_SILENCE", 0.05)
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook"), handler)) as client, raw_client(client) as raw:
        await raw.send(b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        answer = await raw.until(b"}")
        assert b" 408 " in answer
        assert b"connection: close" in answer.lower()
    assert handler.events == []


async def test_a_sender_that_leaves_before_its_body_is_whole_starts_nothing(serve: Serve) -> None:
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook"), handler)) as client:
        async with raw_client(client) as raw:
            await raw.send(b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        assert (await client.post("/hook")).status_code == 200
    assert len(handler.events) == 1


async def test_the_work_goes_on_when_the_sender_hangs_up() -> None:
    hold = Held("done")
    agent = agent_with(Webhook("/hook"), Recorder("hi"), OfflineModel(hold))
    async with serve_ourselves(agent) as client:
        async with raw_client(client) as raw:
            await raw.send(b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            await hold.until(lambda hold: hold.arrived == 1)
        await anyio.sleep(0.05)
        hold.go_on.set()
        await hold.until(lambda hold: hold.ended == 1)
        while (await client.get("/runs")).json()["runs"][0]["status"] != "completed":
            await anyio.sleep(0.005)
    assert hold.cancelled == 0
