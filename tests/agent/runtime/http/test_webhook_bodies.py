"""Webhooks of several methods, with bodies of a type, and the OPTIONS handshake of CloudEvents."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from loopback.agent_api import Recorder, Serve, agent_with, assert_problem
from pydantic import BaseModel

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import Webhook
from definable.errors import ConfigurationError, RouteConflict

pytestmark = pytest.mark.anyio


class Item(BaseModel):
    sku: str
    count: int = 1


class Order(BaseModel):
    number: int
    due: date | None = None
    items: list[Item] = []
    part_of: Order | None = None


# Bodies of a type.


@pytest.mark.parametrize("respond", ["wait", "accept"])
async def test_the_handler_gets_a_body_of_its_type(serve: Serve, respond: Any) -> None:
    handler = Recorder()
    agent = agent_with(Webhook("/orders", body=Order, respond=respond), handler)
    body = {"number": "7", "due": "2030-01-02", "items": [{"sku": "a"}], "part_of": {"number": 1}}
    async with serve(agent) as client:
        response = await client.post("/orders", json=body)
        assert response.status_code == (200 if respond == "wait" else 202)
    [event] = handler.events
    expected = Order(number=7, due=date(2030, 1, 2), items=[Item(sku="a")], part_of=Order(number=1))
    assert event.body == expected
    assert event.raw.json() == body


@pytest.mark.parametrize("respond", ["wait", "accept"])
@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({"json": {"number": "x", "items": [{"count": 2}]}}, ["number", "items.0.sku"]),
        ({"json": []}, ["body"]),
        ({"content": b""}, ["body"]),
        ({"content": b"text", "headers": {"content-type": "text/plain"}}, ["body"]),
        ({"data": {"due": "never"}}, ["number", "due"]),
    ],
)
async def test_a_body_that_is_none_is_refused_with_its_wrong_fields(
    serve: Serve, respond: Any, sent: dict[str, Any], fields: list[str]
) -> None:
    handler, asked = Recorder(), Recorder()
    agent = agent_with(Webhook("/orders", body=Order, respond=respond, filter=asked), handler)
    async with serve(agent) as client:
        problem = assert_problem(await client.post("/orders", **sent), 422)
        assert [each["field"] for each in problem["errors"]] == fields
    assert not handler.events and not asked.events


async def test_of_very_many_wrong_fields_some_are_named(serve: Serve) -> None:
    agent = agent_with(Webhook("/orders", body=list[int]), Recorder())
    async with serve(agent) as client:
        problem = assert_problem(await client.post("/orders", json=["x"] * 5000), 422)
        assert len(problem["errors"]) == 20 and "4,980 more" in problem["detail"]


async def test_a_form_is_a_body_of_a_type_too_and_a_filter_sees_it(serve: Serve) -> None:
    handler = Recorder()
    agent = agent_with(Webhook("/orders", body=Order, filter=lambda event: event.body.number > 3), handler)
    async with serve(agent) as client:
        for number in (1, 7):
            assert (await client.post("/orders", data={"number": str(number)})).status_code == 200
    assert [event.body for event in handler.events] == [Order(number=7)]


async def test_a_handshake_is_no_such_body(serve: Serve) -> None:
    agent = agent_with(Webhook("/slack", body=Order, challenge="slack"), Recorder())
    async with serve(agent) as client:
        response = await client.post("/slack", json={"type": "url_verification", "challenge": "abc"})
        assert (response.status_code, response.text) == (200, "abc")


async def test_the_document_of_the_api_says_what_the_body_is(serve: Serve) -> None:
    agent = agent_with(Webhook("/orders", body=Order, method=["POST", "PUT"]), Recorder())
    async with serve(agent, dev=True) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]["/orders"]
    assert set(paths) == {"post", "put"}
    assert paths["post"]["operationId"] != paths["put"]["operationId"]
    schema = paths["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["number"]
    assert schema["properties"]["items"]["items"]["properties"]["sku"] == {"title": "Sku", "type": "string"}
    assert "422" in paths["post"]["responses"]


def test_what_is_no_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="body="):
        Webhook("/orders", body=object())


# Several methods.


async def test_a_webhook_has_several_methods(serve: Serve) -> None:
    handler = Recorder()
    agent = agent_with(Webhook("/any", method=["get", "POST", "PUT", "POST"]), handler)
    async with serve(agent) as client:
        for method in ("GET", "POST", "PUT", "HEAD"):
            assert (await client.request(method, "/any")).status_code == 200
        assert [event.source for event in handler.events] == ["GET /any", "POST /any", "PUT /any", "GET /any"]
        options = await client.options("/any")
        assert options.status_code == 204
        assert {each.strip() for each in options.headers["allow"].split(",")} >= {"GET", "POST", "PUT", "OPTIONS"}
        assert_problem(await client.delete("/any"), 405)


@pytest.mark.parametrize("method", [[], ["GET", "FETCH"], "", None, 5])
def test_a_method_is_one_of_http(method: Any) -> None:
    with pytest.raises(ConfigurationError, match="method"):
        Webhook("/x", method=method)


def test_two_webhooks_with_a_method_in_common_are_one_too_many() -> None:
    agent = Agent("offline")
    agent.on(Webhook("/x/{a}", method=["GET", "POST"]))(lambda event: None)
    agent.on(Webhook("/x/{b}", method=["PUT", "PATCH"]))(lambda event: None)
    with pytest.raises(RouteConflict):
        agent.on(Webhook("/x/{c}", method=["DELETE", "POST"]))(lambda event: None)


# CloudEvents.


@pytest.mark.parametrize("challenge", ["cloudevents", True])
async def test_a_sender_of_cloudevents_is_allowed_before_auth(serve: Serve, challenge: Any) -> None:
    agent = agent_with(Webhook("/events", challenge=challenge, auth=APIKeyAuth("k")), Recorder())
    async with serve(agent) as client:
        headers = {"WebHook-Request-Origin": "eventemitter.example.com", "WebHook-Request-Rate": "120"}
        response = await client.options("/events", headers=headers)
        assert response.status_code == 200
        assert response.headers["webhook-allowed-origin"] == "eventemitter.example.com"
        assert response.headers["webhook-allowed-rate"]
        assert "POST" in response.headers["allow"]
        plain = await client.options("/events")
        assert plain.status_code == 204 and "webhook-allowed-origin" not in plain.headers
        assert_problem(await client.post("/events", headers=headers), 401)


async def test_without_the_challenge_nobody_is_allowed(serve: Serve) -> None:
    async with serve(agent_with(Webhook("/events", challenge="slack"), Recorder())) as client:
        response = await client.options("/events", headers={"WebHook-Request-Origin": "eventemitter.example.com"})
        assert response.status_code == 204 and "webhook-allowed-origin" not in response.headers
