"""A browser is a client, not a hole: what a page of another origin may send, and read."""

from __future__ import annotations

import logging
from typing import Any, cast

import anyio
import pytest
from loopback.agent_api import Serve, assert_problem, serve_ourselves
from quart import websocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth, AuthContext, AuthRequest
from definable.agent.trigger import Reply, Webhook

pytestmark = pytest.mark.anyio

PAGE = "https://app.example"

KEY = "a-long-random-key"

EVIL: list[dict[str, str]] = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "same-site"},
]
"""What browsers say of a page that is not ours."""

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def noting_agent(**options: Any) -> tuple[Agent, list[str]]:
    """An agent with endpoints of every kind, and what reached any of them."""
    agent, reached = Agent("offline", **options), list[str]()

    @agent.before_request
    def note_run(context: Any) -> None:
        reached.append("a run")

    @agent.on(Webhook("/hook", auth=False))
    def hook(event: Any) -> Reply:
        reached.append("the webhook")
        return Reply({"ok": True})

    @agent.on(Webhook("/look", method="GET", auth=False))
    def look(event: Any) -> None:
        reached.append("the GET webhook")

    @agent.blueprint.route("/own", methods=["GET", "POST"])
    async def own() -> dict[str, Any]:
        reached.append("the route")
        return {"own": True}

    @agent.blueprint.websocket("/ws")
    async def socket() -> None:
        reached.append("the WebSocket")
        await websocket.send("hi")

    return agent, reached


REQUESTS = [
    ("POST", "/run"),
    ("POST", "/hook"),
    ("GET", "/look"),
    ("GET", "/runs"),
    ("DELETE", "/runs/x"),
    ("DELETE", "/sessions/x"),
    ("GET", "/own"),
    ("POST", "/own"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize("headers", EVIL, ids=lambda headers: "-".join(headers.values()))
async def test_a_page_of_another_origin_reaches_nothing(serve: Serve, headers: dict[str, str]) -> None:
    agent, reached = noting_agent()
    async with serve(agent) as client:
        for method, path in REQUESTS:
            json = {"input": "hi"} if method == "POST" else None
            document = assert_problem(await client.request(method, path, json=json, headers=headers), 403)
            assert "cors=" in document["detail"]
        assert (await client.get("/health", headers=headers)).status_code == 200
    assert reached == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
        {"origin": "https://front.example", "sec-fetch-site": "same-origin"},  # a proxy wrote another Host
        {"origin": "http://{host}"},
        {"origin": "https://{host}"},  # a proxy took TLS off
    ],
    ids=str,
)
async def test_other_clients_and_pages_of_ours_are_answered(serve: Serve, headers: dict[str, str]) -> None:
    agent, reached = noting_agent()
    async with serve(agent) as client:
        host = client.base_url.netloc.decode()
        headers = {name: value.format(host=host) for name, value in headers.items()}
        for method, path in [("POST", "/run"), ("POST", "/hook"), ("GET", "/own"), ("GET", "/look")]:
            json = {"input": "hi"} if method == "POST" else None
            assert (await client.request(method, path, json=json, headers=headers)).status_code == 200
    assert reached == ["a run", "the webhook", "the route", "the GET webhook"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_run_needs_a_content_type_that_a_page_must_ask_for(serve: Serve, content_type: str | None) -> None:
    agent, reached = noting_agent()
    async with serve(agent) as client:
        headers = {} if content_type is None else {"content-type": content_type}
        document = assert_problem(await client.post("/run", content=b'{"input": "hi"}', headers=headers), 415)
        assert "application/json" in document["detail"]
        response = await client.post(
            "/run", content=b'{"input": "hi"}', headers={"content-type": "application/json; charset=utf-8"}
        )
        assert response.status_code == 200
    assert reached == ["a run"]


async def test_links_to_pages_may_be_followed_but_not_to_webhooks(serve: Serve) -> None:
    agent, reached = noting_agent()
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    async with serve(agent) as client:
        assert (await client.get("/own", headers=visit)).status_code == 200
        assert (await client.get("/runs", headers=visit)).status_code == 200
        assert_problem(await client.get("/look", headers=visit), 403)
        assert_problem(await client.get("/own", headers={**visit, "sec-fetch-dest": "iframe"}), 403)
        assert_problem(await client.post("/own", headers={**visit, "origin": PAGE}), 403)
    assert reached == ["the route"]


@pytest.mark.parametrize("auth", [None, APIKeyAuth(KEY)], ids=["open", "guarded"])
@pytest.mark.parametrize("path", ["/run", "/runs", "/hook", "/own", "/nowhere", "/health"])
async def test_preflights_are_answered_before_auth_and_only_for_allowed_origins(
    serve: Serve, path: str, auth: Any
) -> None:
    agent, _ = noting_agent(auth=auth)
    async with serve(agent, cors=[PAGE]) as client:
        response = await client.options(path, headers={"origin": PAGE, **PREFLIGHT})
        assert (response.status_code, response.content) == (204, b"")
        headers = response.headers
        assert (headers["access-control-allow-origin"], headers["access-control-allow-methods"]) == (PAGE, "POST")
        assert headers["access-control-allow-headers"] == "authorization,content-type"
        assert headers["access-control-allow-credentials"] == "true"
        assert int(headers["access-control-max-age"]) > 0
        assert "origin" in headers["vary"].lower()
        assert "access-control-allow-private-network" not in headers
        into_network = {"origin": PAGE, **PREFLIGHT, "access-control-request-private-network": "true"}
        headers = (await client.options(path, headers=into_network)).headers
        assert headers["access-control-allow-private-network"] == "true"
        refused = await client.options(path, headers={"origin": "https://evil.example", **PREFLIGHT})
        assert_problem(refused, 403)
        assert "access-control-allow-origin" not in refused.headers


async def test_an_allowed_page_may_read_answers_and_errors_of_every_endpoint(serve: Serve) -> None:
    agent, reached = noting_agent()

    @agent.blueprint.after_app_request
    async def sloppy(response: Any) -> Any:
        response.headers["access-control-allow-origin"] = "*"  # of a second one browsers take neither
        return response

    async with serve(agent, cors=[PAGE]) as client:
        sent = {"origin": PAGE, "sec-fetch-site": "cross-site"}
        for method, path, status in [
            ("POST", "/run", 200),
            ("POST", "/hook", 200),
            ("GET", "/own", 200),
            ("GET", "/runs", 200),
            ("GET", "/runs/x", 404),
            ("GET", "/hook", 405),
            ("GET", "/nowhere", 404),
        ]:
            json = {"input": "hi"} if method == "POST" else None
            response = await client.request(method, path, json=json, headers=sent)
            assert response.status_code == status, path
            assert response.headers.get_list("access-control-allow-origin") == [PAGE]
            assert "location" in response.headers["access-control-expose-headers"].lower()
            assert "Origin" in response.headers["vary"]
        accept = {**sent, "accept": "text/event-stream"}
        response = await client.post("/run", json={"input": "hi"}, headers=accept)
        assert "run_ended" in response.text
        assert response.headers["access-control-allow-origin"] == PAGE
        assert (await client.get("/runs")).headers["vary"] == "Origin"  # or a cache gives it to the page
    assert reached.count("a run") == 2


async def test_an_unauthorised_page_may_read_that_it_is(serve: Serve) -> None:
    agent, _ = noting_agent(auth=APIKeyAuth(KEY))
    async with serve(agent, cors=[PAGE]) as client:
        response = await client.post("/run", json={"input": "hi"}, headers={"origin": PAGE})
        assert_problem(response, 401)
        assert response.headers["access-control-allow-origin"] == PAGE


async def test_any_origin_may_call_without_cookies(serve: Serve) -> None:
    agent, reached = noting_agent()
    async with serve(agent, cors=["*"]) as client:
        response = await client.post("/run", json={"input": "hi"}, headers=EVIL[3])
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
    assert reached == ["a run"]


class CookieAuth:
    """Knows a caller by what a browser sends along by itself."""

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        given = request.headers.get("cookie", "") + request.headers.get("authorization", "")
        return AuthContext("alice") if given in ("session=1", "Basic YTpi", "Bearer t") else None


@pytest.mark.parametrize(
    ("credentials", "status"),
    [({"cookie": "session=1"}, 403), ({"authorization": "Basic YTpi"}, 403), ({"authorization": "Bearer t"}, 200)],
    ids=str,
)
async def test_a_page_cannot_use_credentials_that_the_browser_adds(
    serve: Serve, credentials: dict[str, str], status: int
) -> None:
    agent, reached = noting_agent(auth=CookieAuth())
    async with serve(agent) as client:
        for path in ("/run", "/own"):
            response = await client.post(path, json={"input": "hi"}, headers={**EVIL[3], **credentials})
            assert response.status_code == status
    assert bool(reached) is (status == 200)


@pytest.mark.parametrize(("origin", "is_answered"), [("https://evil.example", False), (PAGE, True), (None, True)])
async def test_websockets_are_opened_for_pages_that_may_call(origin: str | None, is_answered: bool) -> None:
    agent, reached = noting_agent()
    async with serve_ourselves(agent, cors=[PAGE]) as client:
        url = f"ws://{client.base_url.netloc.decode()}/ws"

        def talk() -> str | int:
            try:
                with connect(url, origin=cast(Any, origin), proxy=None) as connection:
                    return str(connection.recv())
            except InvalidStatus as refused:
                return refused.response.status_code

        assert await anyio.to_thread.run_sync(talk) == ("hi" if is_answered else 403)
    assert reached == (["the WebSocket"] if is_answered else [])


HOSTS = [
    ("evil.example", 421),
    ("evil.example:8000", 421),
    ("127.0.0.1.evil.example", 421),
    ("localhost.evil.example", 421),
    ("app.example", 421),
    ("localhost", 200),
    ("LOCALHOST:8000", 200),
    ("agent.localhost:8000", 200),
    ("127.0.0.1:1", 200),
    ("[::1]:8000", 200),
    ("192.168.1.7:8000", 200),
    ("container:8000", 200),
]


@pytest.mark.parametrize(("host", "status"), HOSTS)
async def test_on_loopback_a_name_that_leads_here_is_not_enough(
    host: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    agent, reached = noting_agent()
    async with serve_ourselves(agent) as client:
        rebound = {"host": host, "sec-fetch-site": "same-origin", "origin": f"http://{host}"}
        with caplog.at_level(logging.WARNING, "definable.http"):
            for _ in range(2):
                response = await client.post("/run", json={"input": "hi"}, headers=rebound)
                assert response.status_code == status
                assert (await client.get("/runs", headers={"host": host})).status_code == status
        if status == 421:
            assert "allowed_hosts=" in assert_problem(response, 421)["detail"]
            assert (await client.options("/run", headers={**rebound, **PREFLIGHT})).status_code == 421
            assert (await client.get("/health", headers={"host": host})).status_code == 200
    assert bool(reached) is (status == 200)
    assert caplog.text.count("allowed_hosts") == (status == 421)


async def test_allowed_hosts_are_answered_wherever_the_service_listens(serve: Serve) -> None:
    agent, _ = noting_agent()
    async with serve(agent, allowed_hosts=["app.example", "*.tunnel.example"]) as client:
        for host, status in [
            ("app.example", 200),
            ("App.Example.:443", 200),
            ("a.b.tunnel.example", 200),
            ("tunnel.example", 421),
            ("evilapp.example", 421),
            ("localhost", 200),
        ]:
            assert (await client.get("/runs", headers={"host": host})).status_code == status, host


async def test_a_service_for_other_machines_answers_to_every_name() -> None:
    agent, _ = noting_agent(auth=APIKeyAuth(KEY))
    async with serve_ourselves(agent, host="0.0.0.0") as client:
        headers = {"host": "app.example", "x-api-key": KEY}
        assert (await client.get("/runs", headers=headers)).status_code == 200


async def test_with_auth_a_public_webhook_tells_its_methods(serve: Serve) -> None:
    agent, reached = noting_agent(auth=APIKeyAuth(KEY))
    agent.on(Webhook("/guarded"))(lambda event: None)
    async with serve(agent) as client:
        for method in ("GET", "DELETE", "PUT"):
            response = await client.request(method, "/hook")
            assert_problem(response, 405)
            assert response.headers["allow"] == "POST"
        for path, allow in [("/hook", "OPTIONS, POST"), ("/guarded", "OPTIONS, POST"), ("/runs", "GET, HEAD, OPTIONS")]:
            response = await client.options(path)
            assert (response.status_code, response.headers["allow"]) == (204, allow)
        assert_problem(await client.get("/guarded"), 401)
        assert_problem(await client.options("/nowhere"), 401)
    assert reached == []


async def test_a_path_that_a_webhook_shares_with_a_route_has_the_methods_of_both(serve: Serve) -> None:
    agent, reached = noting_agent(auth=APIKeyAuth(KEY))

    @agent.blueprint.get("/hook")
    async def show() -> str:
        return "shown"

    @agent.blueprint.route("/look", methods=["OPTIONS"])
    async def options() -> tuple[str, int]:
        return "of its own", 200

    async with serve(agent) as client:
        assert_problem(await client.get("/hook"), 401)  # the route's, which is not public
        assert (await client.get("/hook", headers={"x-api-key": KEY})).text == "shown"
        assert (await client.options("/hook")).headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await client.options("/look", headers={"x-api-key": KEY})).text == "of its own"
        response = await client.delete("/hook")
        assert_problem(response, 405)
        assert response.headers["allow"] == "GET, HEAD, POST"
    assert reached == []


async def test_routes_of_ones_own_are_public_where_a_pattern_says_so(serve: Serve) -> None:
    agent, reached = noting_agent(auth=APIKeyAuth(KEY))

    @agent.blueprint.get("/pages/<path:name>")
    async def page(name: str) -> str:
        return name

    async with serve(agent, public=["/own", "/pages/*", "/run*"], cors=[PAGE]) as client:
        assert (await client.get("/own", headers={"origin": PAGE})).json() == {"own": True}
        assert (await client.get("/pages/a/b.html")).text == "a/b.html"
        assert_problem(await client.get("/pages"), 401)
        assert_problem(await client.get("/owner"), 401)
        assert_problem(await client.post("/run", json={"input": "hi"}), 401)  # the agent's own stay guarded
        assert_problem(await client.get("/runs"), 401)
        assert_problem(await client.post("/own", headers=EVIL[0]), 403)
    assert reached == ["the route"]


async def test_a_redirect_names_no_host(serve: Serve) -> None:
    agent, _ = noting_agent()

    @agent.blueprint.get("/slash/")
    async def slash() -> str:
        return "slash"

    async with serve(agent) as client:
        response = await client.get("/slash?a=1")
        assert (response.status_code, response.headers["location"]) == (308, "/slash/?a=1")
        followed = await client.get("//evil.example/..//slash")
        assert not followed.headers.get("location", "").startswith("//")
