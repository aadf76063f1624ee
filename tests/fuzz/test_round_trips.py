"""What is written is read back as it was, and what a client reads is what was sent, whatever it holds."""

from __future__ import annotations

import fnmatch
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from definable.agent import TextDelta
from definable.agent.auth import AuthContext
from definable.agent.interface import InterfaceMessage, Media
from definable.agent.interface.message_json import message_from_json, message_to_json
from definable.agent.runtime.http.router import Router
from definable.agent.runtime.http.sse import encoded
from definable.agent.runtime.ingress import accepted_request, request_data
from definable.agent.trigger import EventTrigger, Headers, RawRequest, TriggerEvent
from definable.model import Image
from definable.model.sse import SSEDecoder

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

LATIN = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20)

NAME = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)

MEDIA = st.one_of(
    st.builds(Media, url=st.just("https://example.com/a"), filename=st.none() | TEXT, size=st.none() | st.integers(0)),
    st.builds(Media, st.binary(min_size=1, max_size=30), duration=st.none() | st.floats(0, 1e9)),
)

IMAGE = st.one_of(st.builds(Image, url=st.just("https://example.com/a.png")), st.builds(Image, data=st.binary()))


@given(
    st.builds(
        InterfaceMessage,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        text=TEXT,
        username=st.none() | TEXT,
        images=st.lists(IMAGE, max_size=2).map(tuple),
        audio=st.lists(MEDIA, max_size=2).map(tuple),
        files=st.lists(MEDIA, max_size=2).map(tuple),
        metadata=st.dictionaries(TEXT, JSON, max_size=3),
    )
)
def test_a_message_of_an_interface(message: InterfaceMessage) -> None:
    assert message_from_json(json.loads(json.dumps(message_to_json(message)))) == message


@given(
    headers=st.lists(st.tuples(NAME, LATIN), max_size=5),
    body=st.binary(max_size=50),
    query=st.dictionaries(TEXT, TEXT, max_size=3),
    user_id=st.none() | TEXT,
)
def test_an_accepted_request(
    headers: list[tuple[str, str]], body: bytes, query: dict[str, str], user_id: str | None
) -> None:
    raw = RawRequest(
        method="POST",
        path="/a b",
        path_params={"n": "ü"},
        query=query,
        headers=Headers((name.encode(), value.encode("latin-1")) for name, value in headers),
        body=body,
        client=("127.0.0.1", 4),
        auth=None if user_id is None else AuthContext(user_id, {"a": 1}),
    )
    event = TriggerEvent(body=None, headers=raw.headers, source="POST /a", timestamp=0.0, raw=raw, id="i", attempt=1)
    kept = json.loads(json.dumps(request_data(event) | {"dedupe_key": None}))
    try:
        _, again = accepted_request(kept)
    except ValueError:  # a body that its content type does not fit; refused before it is accepted
        return
    assert again == raw
    assert dict(again.headers) == dict(raw.headers)


@given(st.lists(TEXT, min_size=1, max_size=5), st.data())
def test_streamed_text_is_what_a_client_reads(texts: list[str], data: st.DataObject) -> None:
    stream = b"".join(encoded(number, TextDelta(text), "") for number, text in enumerate(texts))
    cut, decoder = data.draw(st.integers(0, len(stream))), SSEDecoder()
    events = [*decoder.feed(stream[:cut]), *decoder.feed(stream[cut:])]
    assert [json.loads(event)["text"] for event in events] == texts


SEGMENT = st.from_regex(r"[a-z.+*()\[\]$^|-]{1,6}", fullmatch=True)


@given(st.lists(SEGMENT | st.just("{}"), min_size=1, max_size=4), st.lists(SEGMENT, min_size=4, max_size=4))
def test_a_path_leads_to_its_endpoint_with_what_stands_in_it(shape: list[str], values: list[str]) -> None:
    parts, expected = [], {}
    for number, part in enumerate(shape):
        parts.append(f"{{p{number}}}" if part == "{}" else part)
        if part == "{}":
            expected[f"p{number}"] = values[number]
    routes: Router[str] = Router()
    routes.add("POST", "/" + "/".join(parts), "endpoint")
    path = "/" + "/".join(value if part == "{}" else part for part, value in zip(shape, values, strict=False))
    match = routes.match("POST", path)
    assert (match.endpoint, dict(match.parameters)) == ("endpoint", expected)
    assert routes.match("GET", path).allowed == ("POST",)
    assert routes.match("POST", f"{path}/more").endpoint is None


@given(TEXT.filter(bool), st.text("ab.*?[]!-", min_size=1, max_size=8))
def test_event_names_match_as_globs_do_or_as_they_are(name: str, pattern: str) -> None:
    expected = name == pattern or fnmatch.fnmatchcase(name, pattern)
    assert EventTrigger(pattern).matches(name) is expected


@given(st.lists(st.tuples(NAME, LATIN), max_size=6))
def test_headers_are_found_in_any_case(items: list[tuple[str, str]]) -> None:
    headers = Headers((name.encode(), value.encode("latin-1")) for name, value in items)
    for name, _ in items:
        values = [value for other, value in items if other == name]
        assert headers[name.upper()] == headers[name]
        assert headers[name] in (", ".join(values), values[-1], values[0])
    assert set(headers) == {name for name, _ in items}
