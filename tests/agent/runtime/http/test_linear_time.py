"""Everything that outsiders reach takes at most linear time: each matcher and parser is fed what makes such code slow.

An input of four times the size may take eight times as long, where quadratic time would be sixteen: a ratio of two
processor times on one machine, the least of several. No figure here depends on how fast the machine is.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from definable.agent.auth import (
    APIKeyAuth,
    AuthRequest,
    GitHubSignature,
    JWTAuth,
    SlackSignature,
    StandardWebhookSignature,
    StripeSignature,
)
from definable.agent.interface.splitting import split_text
from definable.agent.run.output_type import OutputType
from definable.agent.run.telemetry_span import parent_of
from definable.agent.runtime.http.auth import PublicPaths
from definable.agent.runtime.http.body import UnfinishedBodies, decoded
from definable.agent.runtime.http.browsers import BrowserGate, HostPolicy, OriginPolicy
from definable.agent.runtime.http.endpoints.runs import accepts_events, prefers_async, run_body
from definable.agent.runtime.http.forwarded import checked_networks, said_of_client
from definable.agent.runtime.http.request import Request
from definable.agent.runtime.http.router import Router
from definable.agent.runtime.logging import UNSAFE
from definable.agent.trigger import EventTrigger, Headers
from definable.agent.trigger.content import json_document, media_type_and_codec, parsed, text_of
from definable.concurrency.byte_limit import ByteLimit
from definable.json_text import well_formed
from definable.model.openai.errors import provider_message
from definable.server.http1_parser import UNKNOWN_METHOD, RequestParser
from definable.server.problem import Problem

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
PART = b'--x\r\ncontent-disposition: form-data; name="a"\r\n'

ROUTES: Router[str] = Router()
for path in ("/p/{a}-{b}", "/q/{a}-{b}-{c}", "/r/{a}aa{b}aa{c}aa", "/{a}/{b}/{c}/{d}", "/{a}-{b}/{c}-{d}/{e}-{f}"):
    ROUTES.add("POST", path, path)

JWT = JWTAuth("x" * 32, algorithm="HS256")
SECRET = "whsec_" + "c2VjcmV0" * 4
ANSWER = OutputType(dict[str, int])
GATE = BrowserGate(OriginPolicy(["https://app.example"]), HostPolicy(["*.app.example"]))
TRACED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
PROXIES = checked_networks(["127.0.0.1", "10.0.0.0/8"])
GLOBS = ("*a*a*b", "*.*.*.*", "[!a]*?*[a-z]*", "**a**b")


def request(*headers: tuple[bytes, bytes], query: bytes = b"") -> Request:
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "query_string": query, "headers": headers}

    async def receive() -> Any: ...

    return Request(scope, receive, {}, UnfinishedBodies(), ByteLimit(2**28))


def headed(provider: Any, name: str) -> Callable[[str], object]:
    """A provider that is shown a header."""
    others = {"webhook-id": "1", "webhook-timestamp": str(int(time.time())), "x-slack-request-timestamp": "1"}
    return lambda value: provider.authenticate(AuthRequest(headers=others | {name: value}))


def from_a_page(headers: dict[bytes, bytes]) -> None:
    """A request with the headers that browsers send."""
    scope = {"type": "http", "method": "OPTIONS", "path": "/run"}
    with suppress(Problem):
        GATE.check_host(headers)
    GATE.preflight(scope, headers)
    GATE.check_page(scope, headers, is_guarded=False, takes_visits=True)


def unfenced(text: str) -> object:
    return ANSWER.parse(text)


CASES: dict[str, tuple[Callable[[Any], object], Callable[[int], Any]]] = {
    # --- paths
    **{
        f"path {path[:3]} {text!r} {end!r}": (
            lambda path: ROUTES.match("POST", path),
            lambda n, path=path, text=text, end=end: path + text * n + end,
        )
        for path in ("/p/", "/q/", "/r/", "/", "/a-b/")
        for text in ("-", "a", "a-", "/", "%", "a/")
        for end in ("", "/", "b")
    },
    # --- bodies
    "json arrays": (json_document, lambda n: b"[" * n),
    "json objects": (json_document, lambda n: b'{"a":' * n),
    "json keys": (json_document, lambda n: b"{" + b",".join(b'"%d":1' % i for i in range(n // 8)) + b"}"),
    "json digits": (json_document, lambda n: b"1" * n),
    "json fraction": (json_document, lambda n: b"0." + b"1" * n),
    "json exponent": (json_document, lambda n: b"1e" + b"0" * n),
    "json digits in text": (json_document, lambda n: b'"' + (b"9" * 199 + b"a") * (n // 200) + b'"'),
    "json exponents in text": (json_document, lambda n: b'"' + b"1e9" * n + b'"'),
    "json overflows": (json_document, lambda n: b"[" + b"1e99," * n + b"1]"),
    "json escapes": (json_document, lambda n: b'"' + b"\\u0041" * n + b'"'),
    "json in text": (lambda body: parsed("text/plain", body), lambda n: b" " * n + b"{"),
    "form percent": (lambda body: parsed(FORM, body), lambda n: b"a=" + b"%" * n),
    "form escapes": (lambda body: parsed(FORM, body), lambda n: b"a=" + b"%41" * n),
    "form plus": (lambda body: parsed(FORM, body), lambda n: b"+" * n),
    "form fields": (lambda body: parsed(FORM, body), lambda n: b"a=1&" * n),
    "form empty fields": (lambda body: parsed(FORM, body), lambda n: b"&" * n),
    "form equals": (lambda body: parsed(FORM, body), lambda n: b"=" * n),
    "form broken escapes": (lambda body: parsed(FORM, body), lambda n: b"a=" + b"%z%4" * n),
    "form no text": (lambda body: parsed(FORM, body), lambda n: b"%ff" * n),
    "form payload": (lambda body: parsed(FORM, body), lambda n: b"payload=" + b"[" * n),
    "multipart header lines": (lambda body: parsed(MULTIPART, body), lambda n: b"--x\r\n" + b"a:b\r\n" * n),
    "multipart long header": (lambda body: parsed(MULTIPART, body), lambda n: b"--x\r\na:" + b"b" * n),
    "multipart parts": (lambda body: parsed(MULTIPART, body), lambda n: PART * (n // 30) + b"--x--"),
    "multipart almost ends": (lambda body: parsed(MULTIPART, body), lambda n: PART + b"\r\n" + b"\r\n-" * n),
    "multipart line ends": (lambda body: parsed(MULTIPART, body), lambda n: b"\r\n" * n),
    "multipart no line ends": (lambda body: parsed(MULTIPART, body), lambda n: PART + b"\r\n" + b"\r" * n),
    "multipart boundary": (
        lambda body: parsed("multipart/form-data; boundary=" + "-" * 70, body),
        lambda n: b"\r\n" + b"-" * n,
    ),
    "gzip": (lambda body: decoded("gzip", body, 1_000), lambda n: gzip.compress(b"a" * n * 100)),
    "gzip members": (lambda body: decoded("gzip", body, 1_000), lambda n: gzip.compress(b"") * (n // 20)),
    "unknown fields": (run_body, lambda n: b"{" + b",".join(b'"f%d":1' % i for i in range(n // 8)) + b"}"),
    "text": (lambda body: text_of("text/plain", body), lambda n: b"\xff" * n),
    # --- headers
    **{
        f"content type {text!r}": (media_type_and_codec, lambda n, text=text: "multipart/form-data" + text * n)
        for text in (";", " ", ";charset", "; charset=", ",", '"', "=", "/")
    },
    **{
        f"multipart type {text!r}": (
            lambda value: parsed(value, b"x"),
            lambda n, text=text: "multipart/form-data; boundary=" + text * n,
        )
        for text in ('"', '\\"', ";", "; a=b", '; a="x', "; a*0=b", "; a*=utf-8''%41", " ", "=")
    },
    **{
        f"accept {text!r}": (
            lambda value: accepts_events(request((b"accept", value))),
            lambda n, text=text: b"text/event-strea, " + text * n,
        )
        for text in (b",", b";", b" ", b"text/event-stream;", b"q=0.1,")
    },
    **{
        f"prefer {text!r}": (
            lambda value: prefers_async(request((b"prefer", value))),
            lambda n, text=text: text * n,
        )
        for text in (b",", b";", b" ", b"respond-async=", b'"')
    },
    "one header many times": (lambda items: Headers(items).get("a"), lambda n: [(b"a", b"b" * 20)] * n),
    "many cookies": (lambda items: Headers(items).get("cookie"), lambda n: [(b"cookie", b"b" * 20)] * n),
    "one header of many": (
        lambda items: request(*items).header(b"accept"),
        lambda n: [(b"accept", b"b" * 20)] * n,
    ),
    "query": (lambda query: request(query=query).query, lambda n: b"a=" + b"%41+%" * n),
    "query parameters": (lambda query: request(query=query).query, lambda n: b"a&" * n),
    **{
        f"{name} {text!r}": (lambda value, name=name: from_a_page({name: value}), lambda n, text=text: text * n)
        for name in (b"host", b"origin", b"sec-fetch-site", b"access-control-request-headers")
        for text in (b"a.", b":", b"[", b"]", b"http://", b"1.", b"/", b"\xff")
    },
    **{
        f"{name} {text!r}": (
            lambda value, name=name: said_of_client({"type": "http", "headers": [(name, value)]}, PROXIES),
            lambda n, text=text: text * n,
        )
        for name in (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
        for text in (b"10.0.0.1,", b"for=10.0.0.1,", b"for=;", b'for="', b"a=b;", b" ", b",", b'"', b"[", b":", b"a.")
    },
    "forwarded many times": (
        lambda headers: said_of_client({"type": "http", "headers": headers}, PROXIES),
        lambda n: [(b"x-forwarded-for", b"10.0.0.1")] * (n // 10),
    ),
    **{
        f"{name} {text!r}": (
            lambda value, name=name: parent_of(TRACED | {name: value}),
            lambda n, text=text: text * n,
        )
        for name in ("traceparent", "tracestate", "baggage")
        for text in ("a=b,", "00-", "a=b;c,", " ", ",", "=", "%41", "-")
    },
    **{
        f"glob {glob!r} {text!r}": (EventTrigger(glob).matches, lambda n, text=text: text * n)
        for glob in GLOBS
        for text in ("a", "ab", ".", "a.", "-")
    },
    **{
        f"public path {glob!r} {text!r}": (
            PublicPaths(["/" + glob]).__contains__,
            lambda n, text=text: "/" + text * n,
        )
        for glob in GLOBS
        for text in ("a", "/", "-")
    },
    # --- credentials
    **{
        f"{name} {text!r}": (headed(provider, header), lambda n, text=text: text * n)
        for name, provider, header in (
            ("key", APIKeyAuth("k" * 20), "authorization"),
            ("token", JWT, "authorization"),
            ("github", GitHubSignature("s"), "x-hub-signature-256"),
            ("slack", SlackSignature("s"), "x-slack-signature"),
            ("stripe", StripeSignature("s"), "stripe-signature"),
            ("standard", StandardWebhookSignature(SECRET), "webhook-signature"),
        )
        for text in ("Bearer ", " ", "a.", ",", "v1,a ", "t=1,v1=a,", "=", "\xff")
    },
    "token of one part": (headed(JWT, "authorization"), lambda n: "Bearer " + "a" * n),
    "token of three parts": (headed(JWT, "authorization"), lambda n: f"Bearer {'a' * n}.{'a' * n}.{'a' * n}"),
    # --- the connection, logs, replies
    **{
        f"head {text!r}": (lambda data: RequestParser(1 << 30).feed(data), lambda n, text=text: text * n)
        for text in (b"\r\n", b"\n", b"A", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\na:b\r\n", b" ")
    },
    **{
        f"method {text!r}": (UNKNOWN_METHOD.match, lambda n, text=text: text * n)
        for text in (b"\r\n", b"\n", b"\r", b"A", b"A ", b" ")
    },
    "log": (lambda text: UNSAFE.sub("?", text), lambda n: "\u2028a" * n),
    "surrogates": (well_formed, lambda n: "\ud800" * n),
    **{
        f"reply {text!r}": (lambda text: split_text(text, 100), lambda n, text=text: text * n)
        for text in (" ", "\n", " \n", "```", "```\n", "a ", "~~~ x\n", "\t\n ", "\U0001f600")
    },
    **{
        f"output {text!r}": (unfenced, lambda n, text=text: "```\n" + text * n + "x")
        for text in ("```", "\n", " ", "``` ", "\n```\n", "[")
    },
}


CASES["page of a model's provider"] = (
    provider_message,
    lambda n: "<title>" * n,
)


def processor_time(function: Callable[[Any], object], argument: Any) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        with suppress(ValueError, Problem, LookupError):
            function(argument)
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("name", CASES)
def test_time_grows_no_faster_than_the_input(name: str) -> None:
    function, make = CASES[name]
    size = 4_000
    ratios: list[float] = []
    for _ in range(4):  # one disturbance of the machine is no finding
        small, large = (processor_time(function, make(each)) for each in (size, 4 * size))
        if large < 0.0005:  # of too little to measure: what took quadratic time would take more
            size *= 4
            small, large = (processor_time(function, make(each)) for each in (size, 4 * size))
        ratios.append(large / max(small, 1e-6))
        if large < 0.0005 or ratios[-1] < 8:
            return
    pytest.fail(f"four times the input takes {', '.join(f'{ratio:.1f}' for ratio in ratios)} times as long")


def test_what_takes_quadratic_time_would_be_found() -> None:
    CASES["quadratic"] = (lambda text: [text[:i] + "x" for i in range(len(text))], lambda n: "a" * n)
    try:
        with pytest.raises(pytest.fail.Exception, match="times as long"):
            test_time_grows_no_faster_than_the_input("quadratic")
    finally:
        del CASES["quadratic"]
