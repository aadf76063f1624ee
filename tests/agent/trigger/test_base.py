"""What all triggers have in common."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from http import HTTPStatus
from typing import Any

import pytest

from definable.agent.trigger import BaseTrigger, Headers, RawRequest, Reply, TriggerEvent
from definable.errors import ConfigurationError


class Doorbell(BaseTrigger):
    @property
    def source(self) -> str:
        return "doorbell(front)"


async def handle(event: TriggerEvent) -> None: ...


def test_a_trigger_of_ones_own_says_its_source() -> None:
    with pytest.raises(TypeError, match="source"):
        BaseTrigger()  # pyright: ignore[reportAbstractUsage]
    assert repr(Doorbell()) == "<Doorbell doorbell(front)>"


def test_has_its_defaults() -> None:
    trigger = Doorbell()
    assert (trigger.timeout, trigger.max_concurrency, trigger.retries, trigger.handler) == (None, None, 0, None)


def test_the_key_names_the_source_or_what_it_was_given() -> None:
    trigger = Doorbell()
    trigger.handler = handle
    assert (trigger.key, trigger.name) == ("doorbell(front)", "doorbell(front)")
    named = Doorbell(name="front door")
    assert (named.key, named.name, named.source) == ("front door", "front door", "doorbell(front)")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": math.nan}, "timeout=nan"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"retries": -1}, "retries=-1"),
        ({"name": " "}, "name=' '"),
        ({"name": 5}, "name=5"),
    ],
)
def test_refuses_an_argument_and_names_it(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Doorbell(**arguments)


def test_takes_what_is_just_within_its_range() -> None:
    trigger = Doorbell(timeout=0.001, max_concurrency=1, retries=1)
    assert (trigger.timeout, trigger.max_concurrency, trigger.retries) == (0.001, 1, 1)


def test_events_are_frozen_and_have_ids_of_their_own() -> None:
    before = time.time()
    event = TriggerEvent()
    assert (event.body, event.headers, event.raw, event.attempt, event.source) == (None, None, None, 1, "")
    assert before <= event.timestamp <= time.time()
    assert event.id != TriggerEvent().id
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"dataclasses.replace\(..., body=...\)"):
        event.body = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("headers", [{"X-Event": "push"}, Headers([(b"X-Event", b"push")])])
def test_an_event_made_by_hand_finds_its_headers_whatever_their_case(headers: Any) -> None:
    event = TriggerEvent(headers=headers)
    assert event.headers is not None
    assert event.headers is event.headers
    assert (event.headers["x-event"], event.headers.get("X-EVENT")) == ("push", "push")
    assert dataclasses.replace(event, body=1).headers == {"x-event": "push"}
    assert json.dumps(event.headers) == '{"x-event": "push"}'


def test_a_request_is_frozen_and_belongs_to_nobody_by_default() -> None:
    request = RawRequest("POST", "/x", {}, {"q": "1"}, Headers(), b"body", ("127.0.0.1", 5000))
    assert (request.method, request.body, request.client, request.auth) == ("POST", b"body", ("127.0.0.1", 5000), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.body = b""  # pyright: ignore[reportAttributeAccessIssue]


def request_with(content_type: str, body: bytes) -> RawRequest:
    return RawRequest("POST", "/a b", {}, {}, Headers([(b"content-type", content_type.encode())]), body, None)


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", b"caf\xc3\xa9\xff", "café\ufffd"),
        ("text/plain; Charset=ISO-8859-1", b"caf\xe9", "café"),
        ("text/plain; charset=klingon", b"caf\xe9", "caf\ufffd"),
        ("text/plain", b"\xef\xbb\xbfa", "a"),
        ("", "é".encode("utf-16"), "é"),
    ],
)
def test_text_of_a_request_is_in_the_charset_that_its_sender_names(content_type: str, body: bytes, text: str) -> None:
    assert request_with(content_type, body).text == text


def test_json_of_a_request_is_asked_for_whatever_its_type() -> None:
    assert request_with("application/octet-stream", b'{"a": 1}').json() == {"a": 1}
    with pytest.raises(ValueError, match="line 1"):
        request_with("application/json", b"{").json()


def test_a_url_is_as_it_was_sent_or_as_it_would_be() -> None:
    assert request_with("", b"").url == "http:///a%20b"
    sent = RawRequest("GET", "/b", {}, {}, Headers([(b"host", b"x:1")]), b"", None, None, "https", b"/%62", "q=%41")
    assert sent.url == "https://x:1/%62?q=%41"


def test_a_reply_has_its_defaults() -> None:
    assert Reply("x") == Reply(body="x", status=200, headers=None)


@pytest.mark.parametrize("status", [0, 100, 199, 600, -1, 200.5, 200.0, "200", None, True])
def test_a_reply_has_a_final_status(status: int) -> None:
    with pytest.raises(ConfigurationError, match=f"status={status!r}"):
        Reply(status=status)


@pytest.mark.parametrize("headers", [{}, {"a": "1"}, [], [("a", "1"), ("a", "2")], (["a", "1"],)])
def test_a_reply_has_headers_by_name_or_in_pairs(headers: Any) -> None:
    assert Reply(headers=headers).headers is headers


@pytest.mark.parametrize(
    "headers", [{"Set-Cookie": ["a=1", "b=2"]}, {"Set-Cookie": ("a=1", "b=2")}, [("Set-Cookie", ["a=1", "b=2"])]]
)
def test_a_list_of_values_is_a_header_that_is_repeated(headers: Any) -> None:
    assert [*Reply(headers=headers).header_pairs()] == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]


def test_a_number_is_a_headers_value() -> None:
    assert [*Reply(headers={"Retry-After": 5}).header_pairs()] == [("Retry-After", "5")]


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"X-Price": "5 €"}, "'X-Price': '5 €'"),
        ({"X-Words": "two\nlines"}, r"'X-Words': 'two\\nlines'"),
        ({"X-A": None}, "'X-A': None"),
        ({"X-A": {"b": 1}}, "'X-A': {'b': 1}"),
        ({"X-A": ["b", None]}, "'X-A': None"),
        ({"bad name": "x"}, "'bad name': 'x'"),
        ({5: "x"}, "5: 'x'"),
        ({"": "x"}, "'': 'x'"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_in_the_handler(headers: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Reply\(headers={{{says}}}\): .*Latin-1"):
        Reply(headers=headers)


@pytest.mark.parametrize("headers", ["a: 1", [("a",)], ["ab"], 5, {"a"}])
def test_other_headers_of_a_reply_are_refused(headers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Reply\(headers=.*a list of \(name, value\) pairs"):
        Reply(headers=headers)


@pytest.mark.parametrize("status", [200, 204, 302, 599, HTTPStatus.CREATED])
def test_a_reply_may_have_any_final_status(status: int) -> None:
    assert Reply(status=status).status == status
