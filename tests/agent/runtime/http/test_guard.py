"""Who may pass: `agent.auth`, a webhook's own provider, providers of every kind, and what they guard."""

from __future__ import annotations

import hashlib
import hmac
import sys
from typing import Any

import anyio
import pytest
from loopback.agent_api import Serve, assert_problem, raw_client, serve_ourselves
from quart import jsonify, request, websocket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, Ping, RejectConnection, RejectData, Request, TextMessage

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth, AuthContext, AuthRequest, CompositeAuth, GitHubSignature
from definable.agent.trigger import Webhook

pytestmark = pytest.mark.anyio

KEY = {"x-api-key": "k"}

ENDPOINTS = [
    ("POST", "/run"),
    ("GET", "/runs"),
    ("GET", "/runs/x"),
    ("DELETE", "/runs/x"),
    ("GET", "/runs/x/events"),
    ("GET", "/sessions/x"),
    ("DELETE", "/sessions/x"),
    ("POST", "/hook"),
    ("GET", "/own"),
    ("GET", "/nowhere"),
    ("GET", "/run"),
]


def guarded_agent(auth: Any) -> Agent:
    agent = Agent("offline", auth=auth)
    agent.on(Webhook("/hook"))(lambda event: None)

    @agent.blueprint.route("/own", methods=["GET", "POST"])
    async def own() -> Any:
        return jsonify(user=request.scope["definable.auth"].user_id, body=(await request.get_data()).decode())

    @agent.blueprint.websocket("/ws")
    async def echo() -> None:
        while True:
            await websocket.send(await websocket.receive())

    return agent


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_everything_needs_the_agents_auth(serve: Serve, method: str, path: str) -> None:
    async with serve(guarded_agent(APIKeyAuth("k"))) as client:
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}):
            response = await client.request(method, path, headers=headers, json={"input": "hi"})
            assert_problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer ")
        response = await client.request(method, path, headers=KEY, json={"input": "hi"})
        assert response.status_code in (200, 404, 405)


async def test_credentials_of_any_bytes_are_a_401(serve: Serve) -> None:
    async with serve(guarded_agent(CompositeAuth(APIKeyAuth("ké"), GitHubSignature("s")))) as client:
        for name in (b"x-api-key", b"authorization", b"x-hub-signature-256"):
            for value in (b"\xff\xfe", "ключ".encode(), b"Bearer \xe9", b"sha256=\xff"):
                assert_problem(await client.get("/runs", headers=[(name, value)]), 401)
        assert (await client.get("/runs", headers=[(b"x-api-key", "ké".encode())])).status_code == 200


async def test_credentials_that_come_twice_are_no_credentials(serve: Serve) -> None:
    async with serve(guarded_agent(APIKeyAuth("k"))) as client:
        assert_problem(await client.get("/runs", headers=[("x-api-key", "k"), ("x-api-key", "k")]), 401)


async def test_health_and_public_webhooks_are_open(serve: Serve) -> None:
    agent = guarded_agent(APIKeyAuth("k"))
    agent.on(Webhook("/public", auth=False))(lambda event: {"input": f"{event.raw.auth}"})
    async with serve(agent) as client:
        assert (await client.get("/health")).json()["status"] == "ok"
        assert (await client.post("/public")).json()["content"] == "None"


async def test_a_webhooks_own_provider_applies_to_it_alone(serve: Serve) -> None:
    agent = guarded_agent(APIKeyAuth("k"))
    agent.on(Webhook("/theirs", auth=APIKeyAuth("theirs")))(lambda event: None)
    async with serve(agent) as client:
        assert_problem(await client.post("/theirs", headers=KEY), 401)
        assert (await client.post("/theirs", headers={"x-api-key": "theirs"})).status_code == 200
        assert_problem(await client.post("/hook", headers={"x-api-key": "theirs"}), 401)


async def test_auth_may_be_set_while_serving(serve: Serve) -> None:
    agent = guarded_agent(None)
    async with serve(agent) as client:
        assert (await client.get("/runs")).status_code == 200
        agent.auth = APIKeyAuth("k")
        assert_problem(await client.get("/runs"), 401)
        assert_problem(await client.post("/hook"), 401)


class Provider:
    """A provider that answers or raises what it was given, and keeps what it was asked."""

    def __init__(self, answer: Any, *, needs_body: bool = False) -> None:
        self.answer = answer
        self.needs_body = needs_body
        self.requests: list[AuthRequest] = []

    def authenticate(self, request: AuthRequest) -> Any:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class AsyncProvider(Provider):
    async def authenticate(self, request: AuthRequest) -> Any:
        await anyio.lowlevel.checkpoint()
        return super().authenticate(request)


@pytest.mark.parametrize("kind", [Provider, AsyncProvider])
async def test_providers_may_be_sync_and_async(serve: Serve, kind: type[Provider]) -> None:
    provider = kind(AuthContext("ann"))
    async with serve(guarded_agent(provider)) as client:
        assert (await client.get("/own", headers={"X-Any": "1"})).json()["user"] == "ann"
        provider.answer = None
        assert_problem(await client.get("/own"), 401)
    request = provider.requests[0]
    assert (request.platform, request.user_id, request.header("x-any"), request.body) == ("http", None, "1", b"")


@pytest.mark.parametrize("kind", [Provider, AsyncProvider])
@pytest.mark.parametrize("answer", [ZeroDivisionError("secret"), True, "ann", object()])
@pytest.mark.parametrize(("method", "path"), [("POST", "/run"), ("POST", "/hook"), ("GET", "/own")])
async def test_a_provider_that_fails_denies_with_a_500(
    kind: type[Provider], answer: Any, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_ourselves(guarded_agent(kind(answer))) as client:
        response = await client.request(method, path, json={"input": "hi"})
        assert_problem(response, 500)
    assert "secret" not in response.text
    assert "the request is denied" in caplog.text


@pytest.mark.parametrize("path", ["/run", "/hook", "/own"])
async def test_a_provider_that_judges_the_body_gets_it_raw_and_so_does_the_endpoint(serve: Serve, path: str) -> None:
    provider = Provider(AuthContext("ann"), needs_body=True)
    body = b'{ "input":\n"hi" }'
    async with serve(guarded_agent(provider)) as client:
        response = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 200
    assert [request.body for request in provider.requests] == [body]
    if path == "/own":
        assert response.json() == {"user": "ann", "body": body.decode()}


async def test_a_body_that_is_judged_is_bounded(serve: Serve) -> None:
    agent = guarded_agent(Provider(AuthContext("ann"), needs_body=True))
    agent.on(Webhook("/small", max_body=10))(lambda event: None)
    agent.on(Webhook("/large", max_body=3_000_000))(lambda event: None)
    async with serve(agent) as client:
        assert_problem(await client.post("/small", content=b"x" * 11), 413)
        assert (await client.post("/large", content=b"x" * 3_000_000)).status_code == 200
        async with raw_client(client) as raw:
            await raw.send(b"POST /own HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n")
            assert b" 413 " in await raw.until(b"}")


async def test_a_sender_proves_itself_by_its_signature(serve: Serve) -> None:
    agent = Agent("offline")
    users: list[Any] = []
    agent.on(Webhook("/hook", auth=GitHubSignature("secret")))(lambda event: users.append(event.raw.auth.user_id))
    body = b'{"a": 1}'
    signature = "sha256=" + hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    async with serve(agent) as client:
        headers = {"content-type": "application/json", "x-hub-signature-256": signature}
        assert (await client.post("/hook", content=body, headers=headers)).status_code == 200
        assert_problem(await client.post("/hook", content=b'{"a":1}', headers=headers), 401)
        assert_problem(await client.post("/hook", content=b"{", headers=headers), 401)  # before it is parsed
        assert_problem(await client.post("/hook", content=body), 401)
    assert users == ["github"]


async def test_who_has_no_credentials_is_not_waited_for() -> None:
    async with serve_ourselves(guarded_agent(APIKeyAuth("k"))) as client, raw_client(client) as raw:
        await raw.send(b"POST /run HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        answer = await raw.rest()
    assert b" 401 " in answer
    assert b"connection: close" in answer.lower()


async def websocket_events(client: Any, headers: list[tuple[bytes, bytes]], count: int) -> list[Event]:
    """The first events of a WebSocket that sends one message."""
    connection = WSConnection(ConnectionType.CLIENT)
    async with raw_client(client) as raw:
        await raw.send(connection.send(Request(host="x", target="/ws", extra_headers=headers)))
        events: list[Event] = []
        while len(events) < count:
            connection.receive_data(await raw.stream.receive())
            for event in connection.events():
                if isinstance(event, Ping):
                    continue
                events.append(event)
                if isinstance(event, AcceptConnection):
                    await raw.send(connection.send(TextMessage("hi")))
        return events[:count]


async def test_websockets_are_guarded(serve: Serve) -> None:
    async with serve(guarded_agent(APIKeyAuth("k"))) as client:
        [accepted, echoed] = await websocket_events(client, [(b"x-api-key", b"k")], 2)
        assert isinstance(accepted, AcceptConnection)
        assert isinstance(echoed, TextMessage)
        assert echoed.data == "hi"
        [refused] = await websocket_events(client, [], 1)
        assert isinstance(refused, RejectConnection)
        assert refused.status_code in (401, 403)


async def test_a_websocket_is_refused_with_the_same_problem_as_a_request() -> None:
    async with serve_ourselves(guarded_agent(Provider(ZeroDivisionError(), needs_body=True))) as client:
        [refused, data] = await websocket_events(client, [], 2)
    assert isinstance(refused, RejectConnection)
    assert isinstance(data, RejectData)
    assert (refused.status_code, dict(refused.headers)[b"content-type"]) == (500, b"application/problem+json")


async def test_a_route_that_fails_is_a_problem_without_a_traceback(serve: Serve) -> None:
    agent = Agent("offline")

    @agent.blueprint.get("/broken")
    async def broken() -> str:
        raise ZeroDivisionError("secret")

    async with serve(agent) as client:
        response = await client.get("/broken")
        assert_problem(response, 500)
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/run"), ("POST", "/hook"), ("GET", "/own"), ("GET", "/nowhere")]
)
async def test_a_provider_that_exits_takes_the_service_nowhere(serve: Serve, method: str, path: str) -> None:
    class Leaves:
        def __init__(self) -> None:
            self.leaves = True

        async def authenticate(self, request: AuthRequest) -> AuthContext | None:
            if self.leaves:
                sys.exit(3)
            return AuthContext("ann")

    provider = Leaves()
    async with serve(guarded_agent(provider)) as client:
        assert (await client.request(method, path, json={"input": "hi"})).status_code == 500
        provider.leaves = False
        assert (await client.post("/run", json={"input": "hi"})).status_code == 200


async def test_a_route_that_exits_takes_the_service_nowhere(serve: Serve) -> None:
    agent = Agent("offline")

    @agent.blueprint.get("/leave")
    async def leave() -> None:
        sys.exit(3)

    async with serve(agent) as client:
        assert (await client.get("/leave")).status_code == 500
        assert (await client.get("/health")).status_code == 200
