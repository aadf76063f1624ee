"""What a provider sees of an HTTP request: enough for senders that sign the URL or put a secret in it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from loopback.agent_api import Serve

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth, AuthContext, AuthRequest, GitHubSignature
from definable.agent.trigger import TriggerEvent, Webhook

pytestmark = pytest.mark.anyio

SECRET = b"12345"


def twilio_signature(url: str, form: dict[str, str]) -> str:
    signed = url + "".join(name + form[name] for name in sorted(form))
    return base64.b64encode(hmac.new(SECRET, signed.encode(), hashlib.sha1).digest()).decode()


class Twilio:
    """https://www.twilio.com/docs/usage/security#validating-requests"""

    platforms = frozenset({"http"})
    needs_body = True

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        expected = twilio_signature(request.url, form)
        fits = hmac.compare_digest(expected, request.header("X-Twilio-Signature") or "")
        return AuthContext("twilio") if fits else None


def hubspot_signature(method: str, url: str, body: bytes, timestamp: str) -> str:
    signed = method.encode() + url.encode() + body + timestamp.encode()
    return base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()


class HubSpot:
    """https://developers.hubspot.com/docs/apps/legacy-apps/authentication/validating-requests, version 3"""

    platforms = frozenset({"http"})
    needs_body = True

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        timestamp = request.header("X-HubSpot-Request-Timestamp") or ""
        expected = hubspot_signature(request.method, request.url, request.body, timestamp)
        fits = hmac.compare_digest(expected, request.header("X-HubSpot-Signature-v3") or "")
        return AuthContext("hubspot") if fits else None


class Token:
    """A secret in the URL."""

    platforms = frozenset({"http"})

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        fits = hmac.compare_digest(request.query.get("token", "").encode(), SECRET)
        return AuthContext("sender") if fits else None


def handled(event: TriggerEvent) -> dict[str, Any]:
    return {"input": "hi"}


QUERIES = ["", "?foo=1&bar=2", "?to=+1%20415&x=a%2Fb", "?a=1&a=2", "?flag", "?empty=", "?%C3%A4=%e4"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", ["/app", "/call/%2B49%20x", "/call/%c3%a4"])
async def test_a_sender_that_signs_the_url_and_the_form_is_known(serve: Serve, path: str, query: str) -> None:
    agent = Agent("offline")
    for each in ("/app", "/call/{number}"):
        agent.on(Webhook(each, auth=Twilio()))(handled)
    form = {"CallSid": "CA123", "From": "+14158675310", "Body": "ä &="}
    async with serve(agent) as client:
        url = f"{client.base_url}".rstrip("/") + path + query
        headers = {"content-type": "application/x-www-form-urlencoded"}
        for signed, status in ((url, 200), (url + "&", 401), (url.replace("http://", "https://"), 401)):
            headers["x-twilio-signature"] = twilio_signature(signed, form)
            response = await client.post(url, content=urlencode(form).encode(), headers=headers)
            assert response.status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_a_sender_that_signs_method_url_and_body_is_known(serve: Serve, method: str) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/events", method=method, auth=HubSpot()))(handled)
    body, timestamp = b"" if method == "GET" else json.dumps({"id": 1}).encode(), str(int(time.time() * 1000))
    async with serve(agent) as client:
        url = f"{client.base_url}".rstrip("/") + "/events?portal=7"
        for signed, status in ((method, 200), ("PATCH", 401)):
            headers = {
                "x-hubspot-request-timestamp": timestamp,
                "x-hubspot-signature-v3": hubspot_signature(signed, url, body, timestamp),
            }
            response = await client.request(method, url, content=body or None, headers=headers)
            assert response.status_code == status


async def test_a_secret_in_the_url_is_known_and_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline", auth=Token())
    agent.on(Webhook("/hook"))(handled)

    @agent.blueprint.route("/own")
    async def own() -> str:
        return "own"

    async with serve(agent) as client:
        for token, is_known in (("12345", True), ("hidden", False)):
            for method, path in (("POST", "/hook"), ("GET", "/own"), ("GET", "/runs")):
                response = await client.request(method, f"{path}?other=1&token={token}")
                assert (response.status_code == 200) is is_known
        assert (await client.get("/runs")).status_code == 401
    assert "hidden" not in caplog.text


async def test_a_provider_sees_a_request_as_it_was_sent(serve: Serve) -> None:
    seen: list[AuthRequest] = []

    class Noting:
        async def authenticate(self, request: AuthRequest) -> AuthContext:
            seen.append(request)
            return AuthContext("ann")

    async with serve(Agent("offline", auth=Noting())) as client:
        await client.get("/runs/a%2Fb%20c?x=%26&y=2&y=3", headers={"X-One": "1"})
        host = client.base_url.netloc.decode()
    (request,) = seen
    assert (request.platform, request.method, request.path) == ("http", "GET", "/runs/a/b c")
    assert request.url == f"http://{host}/runs/a%2Fb%20c?x=%26&y=2&y=3"
    assert request.query == {"x": "&", "y": "3"}
    assert request.header("x-one") == "1"
    assert (request.user_id, request.chat_id, request.body) == (None, None, b"")


def test_a_request_that_is_made_by_hand_has_what_it_is_given() -> None:
    request = AuthRequest("http", None, None, None, {}, {}, "GET", "https://a/b?c=d", "/b", {"c": "d"}, b"x")
    assert (request.method, request.url, request.path) == ("GET", "https://a/b?c=d", "/b")
    assert (request.query, request.body) == ({"c": "d"}, b"x")
    assert AuthRequest().query == {}


async def test_too_many_parameters_are_the_callers_mistake_not_the_providers(serve: Serve) -> None:
    async with serve(Agent("offline", auth=Token())) as client:
        response = await client.get("/runs?" + "a=1&" * 2_000)
    assert response.status_code == 400


# --- what is logged


async def test_a_refused_login_is_logged_with_its_reason(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline", auth=APIKeyAuth("right"))
    agent.on(Webhook("/github", auth=GitHubSignature("s")))(handled)
    async with serve(agent) as client:
        for _ in range(20):
            assert (await client.get("/runs", headers={"X-API-Key": "hidden"})).status_code == 401
        assert (await client.post("/github")).status_code == 401
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert lines == [
        "refused GET '/runs' from 127.0.0.1: APIKeyAuth: the API key is unknown",
        "refused 20 more since the last such line, most from 127.0.0.1 (20)",
    ]
    assert "hidden" not in caplog.text


async def test_a_provider_that_raises_is_logged_once_and_denies(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def authenticate(self, request: AuthRequest) -> AuthContext:
            raise ZeroDivisionError("no database")

    async with serve(Agent("offline", auth=Broken())) as client:
        for _ in range(5):
            response = await client.get("/runs")
            assert response.status_code == 500
            assert "database" not in response.text
    assert caplog.text.count("Traceback") == 1
