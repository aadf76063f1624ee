"""Platforms' handshakes, and deliveries that are not wanted: answered at once, whatever becomes of the others."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from loopback.agent_api import Recorder, Serve, agent_with, assert_problem

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth, GitHubSignature, SlackSignature
from definable.agent.trigger import MetaChallenge, Reply, TriggerEvent, Webhook, ZoomChallenge
from definable.errors import ConfigurationError

pytestmark = pytest.mark.anyio

META = "/hook?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meaty"
URL_VERIFICATION = {"type": "url_verification", "challenge": "abc", "token": "t"}
ZOOM = {"event": "endpoint.url_validation", "payload": {"plainToken": "qgg8"}, "event_ts": 1}


def zoom_answer(secret: bytes) -> dict[str, str]:
    return {"plainToken": "qgg8", "encryptedToken": hmac.new(secret, b"qgg8", hashlib.sha256).hexdigest()}


def slack_headers(body: bytes, secret: bytes = b"secret") -> dict[str, str]:
    now = str(int(time.time()))
    signature = hmac.new(secret, f"v0:{now}:".encode() + body, hashlib.sha256).hexdigest()
    return {
        "content-type": "application/json",
        "x-slack-request-timestamp": now,
        "x-slack-signature": f"v0={signature}",
    }


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize("challenge", [True, "slack"])
async def test_slack_is_answered_when_it_has_signed(serve: Serve, respond: Any, challenge: Any) -> None:
    handler = Recorder()
    webhook = Webhook("/hook", respond=respond, auth=SlackSignature("secret"), challenge=challenge, dedupe="X-Id")
    async with serve(agent_with(webhook, handler)) as client:
        body = json.dumps(URL_VERIFICATION).encode()
        for _ in range(2):  # a repeat of a handshake is one too
            response = await client.post("/hook", content=body, headers=slack_headers(body) | {"x-id": "1"})
            assert (response.status_code, response.text) == (200, "abc")
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
            assert response.headers["x-content-type-options"] == "nosniff"
        assert_problem(await client.post("/hook", content=body, headers=slack_headers(body, b"wrong")), 401)
        body = b'{"type": "event_callback"}'
        response = await client.post("/hook", content=body, headers=slack_headers(body) | {"x-id": "1"})
        assert response.json()["status"] == ("ok" if respond == "wait" else "accepted")
    assert [event.body for event in handler.events] == [{"type": "event_callback"}]


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize("challenge", [True, "meta", MetaChallenge("meaty")])
async def test_meta_asks_by_get_without_a_signature(serve: Serve, respond: Any, challenge: Any) -> None:
    handler = Recorder()
    webhook = Webhook("/hook", respond=respond, auth=GitHubSignature("secret"), challenge=challenge)
    async with serve(agent_with(webhook, handler)) as client:
        response = await client.get(META)
        assert (response.status_code, response.text) == (200, "1158201444")
        assert (await client.head(META)).status_code == 200
        wrong = await client.get(META.replace("meaty", "other"))
        assert wrong.status_code == (403 if isinstance(challenge, MetaChallenge) else 200)
        response = await client.get("/hook?hub.mode=unsubscribe&hub.challenge=1")
        assert_problem(response, 405)
        assert response.headers["allow"] == "POST"
        assert_problem(await client.post("/hook"), 401)
    assert handler.events == []


@pytest.mark.parametrize("challenge", [True, "graph"])
async def test_graph_asks_by_query_before_auth_and_a_question_is_no_page(serve: Serve, challenge: Any) -> None:
    handler = Recorder()
    webhook = Webhook("/hook", respond="accept", auth=APIKeyAuth("key"), challenge=challenge)
    async with serve(agent_with(webhook, handler)) as client:
        response = await client.post("/hook?validationToken=Validation%3A+%3Cscript%3E")
        assert (response.status_code, response.text) == (200, "Validation: <script>")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert_problem(await client.post("/hook?validationtoken=x"), 401)
        assert_problem(await client.post("/hook?validationToken="), 401)
    assert handler.events == []


@pytest.mark.parametrize(
    ("auth", "challenge", "secret"),
    [
        (False, ZoomChallenge("zoom"), b"zoom"),
        (SlackSignature("secret"), "zoom", b"secret"),
        (SlackSignature(["secret", "old"]), True, b"secret"),
    ],
)
async def test_zoom_gets_a_mac_of_its_token(serve: Serve, auth: Any, challenge: Any, secret: bytes) -> None:
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook", respond="accept", auth=auth, challenge=challenge), handler)) as client:
        body = json.dumps(ZOOM).encode()
        response = await client.post("/hook", content=body, headers=slack_headers(body))
        assert response.json() == zoom_answer(secret)
        body = json.dumps(ZOOM | {"event": "meeting.started"}).encode()
        assert (await client.post("/hook", content=body, headers=slack_headers(body))).status_code == 202
    assert len(handler.events) == 1


async def test_zoom_signs_no_event_for_a_stranger(serve: Serve) -> None:
    handler = Recorder()
    async with serve(agent_with(Webhook("/hook", auth=False, challenge=ZoomChallenge("zoom")), handler)) as client:
        forged = ZOOM | {"payload": {"plainToken": 'v0:1:{"event":"meeting.ended"}'}}
        response = await client.post("/hook", json=forged)
        assert response.json() == {"status": "ok"}
    assert [event.body for event in handler.events] == [forged]


@pytest.mark.parametrize("challenge", [True, "echo"])
async def test_others_get_their_challenge_back(serve: Serve, challenge: Any) -> None:
    handler = Recorder()
    webhook = Webhook("/hook", respond="accept", auth=False, challenge=challenge)
    async with serve(agent_with(webhook, handler)) as client:
        assert (await client.get("/hook?challenge=dropbox")).text == "dropbox"
        assert (await client.head("/hook")).status_code == 200
        assert_problem(await client.get("/hook"), 405)
        assert (await client.post("/hook", json={"challenge": "monday"})).json() == {"challenge": "monday"}
        twitch = {"twitch-eventsub-message-type": "webhook_callback_verification"}
        body = {"challenge": "twitch", "subscription": {}}
        assert (await client.post("/hook", json=body, headers=twitch)).text == "twitch"
        for other in (body, {"challenge": 5}, {"challenge": ""}, ["challenge"], "challenge"):
            assert (await client.post("/hook?challenge=x", json=other)).status_code == (
                200 if other == {"challenge": ""} else 202
            )


async def test_a_function_may_answer_any_handshake(serve: Serve) -> None:
    handler = Recorder()

    def crc(event: TriggerEvent) -> Any:
        if event.raw is not None and event.raw.method == "GET":
            return {"response_token": event.raw.query["crc_token"]} if event.raw.query else None
        return Reply("no", 418) if event.body == {"ask": 1} else None

    webhook = Webhook("/hook", respond="accept", auth=APIKeyAuth("key"), challenge=crc)
    async with serve(agent_with(webhook, handler)) as client:
        assert (await client.get("/hook?crc_token=x")).json() == {"response_token": "x"}
        assert_problem(await client.get("/hook"), 405)
        assert_problem(await client.post("/hook", json={"ask": 1}), 401)
        key = {"x-api-key": "key"}
        assert (await client.post("/hook", json={"ask": 1}, headers=key)).status_code == 418
        assert (await client.post("/hook", json={"ask": 2}, headers=key)).status_code == 202
        assert_problem(await client.get("/hook?other=x"), 500)
    assert len(handler.events) == 1


async def test_a_get_of_ones_own_comes_before_that_of_handshakes(serve: Serve) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/hook", challenge=True))(lambda event: None)
    agent.on(Webhook("/hook", method="GET"))(lambda event: Reply("own"))
    async with serve(agent) as client:
        assert (await client.get(META)).text == "own"


# --- filter, before_accept


@pytest.mark.parametrize("respond", ["wait", "accept"])
async def test_what_is_filtered_is_answered_200_and_neither_queued_nor_remembered(serve: Serve, respond: Any) -> None:
    handler, wanted = Recorder(), {"push"}

    async def is_wanted(event: TriggerEvent) -> bool:
        return event.body["action"] in wanted

    webhook = Webhook("/hook", respond=respond, dedupe="X-Id", filter=is_wanted)
    async with serve(agent_with(webhook, handler)) as client:
        response = await client.post("/hook", json={"action": "star"}, headers={"x-id": "1"})
        assert (response.status_code, response.json()) == (200, {"status": "ignored"})
        wanted.add("star")
        response = await client.post("/hook", json={"action": "star"}, headers={"x-id": "1"})
        assert response.json()["status"] in ("ok", "accepted")
    assert len(handler.events) == 1


async def test_before_accept_may_answer_instead(serve: Serve) -> None:
    handler = Recorder()

    def first(event: TriggerEvent) -> Any:
        return {"reply": Reply("not now", 429, {"retry-after": "9"}), "wrong": 5, "fine": None}[event.body]

    webhook = Webhook("/hook", respond="accept", dedupe="X-Id", before_accept=first)
    async with serve(agent_with(webhook, handler)) as client:
        response = await client.post("/hook", json="reply", headers={"x-id": "1"})
        assert (response.status_code, response.text, response.headers["retry-after"]) == (429, "not now", "9")
        assert_problem(await client.post("/hook", json="wrong", headers={"x-id": "1"}), 500)
        assert_problem(await client.post("/hook", json="unknown", headers={"x-id": "1"}), 500)
        assert (await client.post("/hook", json="fine", headers={"x-id": "1"})).status_code == 202
    assert len(handler.events) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"challenge": "twilio"}, r"challenge='twilio'\): True, one of 'slack'"),
        ({"challenge": 5}, "challenge=5"),
        ({"challenge": MetaChallenge}, "MetaChallenge"),
        ({"filter": 5}, "filter=5"),
        ({"filter": lambda: True}, "a function of the event"),
        ({"before_accept": "x", "respond": "accept"}, "before_accept='x'"),
        ({"before_accept": lambda event: None}, "needs respond='accept'"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Webhook("/hook", **arguments)


@pytest.mark.parametrize("kind", [MetaChallenge, ZoomChallenge])
@pytest.mark.parametrize("secret", ["", " ", 5])
def test_a_secret_is_a_string_that_is_not_empty(kind: Any, secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="a string that is not empty"):
        kind(secret)
