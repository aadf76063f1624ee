"""Who calls too often: per user, per key, per address, over replicas; and failed logins."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
import pytest
from loopback.agent_api import Serve, assert_problem
from quart import websocket

from definable.agent import Agent
from definable.agent.auth import APIKey, APIKeyAuth, AuthContext, AuthRequest, CompositeAuth, JWTAuth
from definable.agent.bus import RedisBus
from definable.agent.session import PostgresSessionStore
from definable.agent.trigger import Webhook
from definable.concurrency.rate_limits import MemoryLimits, Rate, rate_of
from definable.errors import ConfigurationError
from definable.testing import served

pytestmark = pytest.mark.anyio

logger = logging.getLogger(__name__)

SECRET = "a secret of at least 32 bytes, no less"


def user(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {jwt.encode({'sub': name}, SECRET, 'HS256')}"}


async def statuses(client: httpx2.AsyncClient, times: int, path: str = "/runs", **options: Any) -> Counter[int]:
    return Counter([(await client.get(path, **options)).status_code for _ in range(times)])


async def test_each_user_has_a_rate_of_his_own(serve: Serve) -> None:
    async with serve(Agent("offline", auth=JWTAuth(SECRET)), rate_limit="3/hour") as client:
        assert await statuses(client, 5, headers=user("ann")) == {200: 3, 429: 2}
        assert await statuses(client, 3, headers=user("bob")) == {200: 3}
        refused = await client.get("/runs", headers=user("ann"))
        assert_problem(refused, 429)
        assert 1100 <= int(refused.headers["retry-after"]) <= 1200
        assert await statuses(client, 20, "/health") == {200: 20}


async def test_each_key_has_a_rate_which_comes_before_that_of_all(serve: Serve) -> None:
    keys = {"busy": APIKey("b", rate_limit="6/hour"), "rare": APIKey("r", rate_limit="1/hour"), "plain": APIKey("p")}
    async with serve(Agent("offline", auth=APIKeyAuth(keys)), rate_limit="3/hour") as client:
        for key, allowed in (("b", 6), ("r", 1), ("p", 3)):
            assert await statuses(client, 8, headers={"x-api-key": key}) == {200: allowed, 429: 8 - allowed}


async def test_whoever_a_key_acts_for_the_rate_is_the_keys(serve: Serve) -> None:
    auth = APIKeyAuth({"shop": APIKey("s", rate_limit="2/hour")})
    async with serve(Agent("offline", auth=auth)) as client:
        for name, status in (("ann", 200), ("bob", 200), ("eve", 429)):
            response = await client.post("/run", headers={"x-api-key": "s"}, json={"input": "hi", "user_id": name})
            assert response.status_code == status


async def test_where_nobody_is_asked_who_he_is_an_address_has_the_rate(serve: Serve) -> None:
    agent = Agent("offline", auth=APIKeyAuth("k"))
    agent.on(Webhook("/public", auth=False))(lambda event: None)
    async with serve(agent, rate_limit="2/hour") as client:
        got = [(await client.post("/public")).status_code for _ in range(3)]
        assert got == [200, 200, 429]
        assert await statuses(client, 2, headers={"x-api-key": "k"}) == {200: 2}


async def test_an_address_is_limited_before_anybody_is_asked_and_a_forged_one_does_not_help() -> None:
    asked = 0

    class Provider:
        def authenticate(self, request: AuthRequest) -> AuthContext | None:
            nonlocal asked
            asked += 1
            return AuthContext("ann")

    async with served(Agent("offline", auth=Provider()), address_rate_limit="4/hour") as service:
        got = Counter[int]()
        for number in range(8):
            headers = {"x-forwarded-for": f"192.0.2.{number}", "forwarded": f"for=192.0.2.{number}"}
            got += await statuses(service.client, 1, headers=headers)
        assert got == {200: 4, 429: 4}
        assert asked == 4


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
    ],
)
async def test_of_ipv6_a_network_is_one_client(first: str, second: str, same: bool) -> None:
    options: Any = {"trusted_proxies": ["127.0.0.1"], "address_rate_limit": "1/hour"}
    async with served(Agent("offline"), **options) as service:
        for address, status in ((first, 200), (second, 429 if same else 200)):
            response = await service.client.get("/runs", headers={"x-forwarded-for": address})
            assert response.status_code == status


async def test_routes_of_ones_own_and_websockets_are_limited_too(serve: Serve) -> None:
    agent = Agent("offline")

    @agent.blueprint.get("/own")
    async def own() -> str:
        return "own"

    @agent.blueprint.websocket("/ws")
    async def echo() -> None:
        await websocket.accept()

    async with serve(agent, rate_limit="2/hour") as client:
        assert await statuses(client, 3, "/own") == {200: 2, 429: 1}


async def handshake(url: str) -> tuple[int, dict[str, str]]:
    """The status and headers that a WebSocket's handshake is answered with."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    asked = (
        f"GET /ws HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with await anyio.connect_tcp(host, port) as stream:
        await stream.send(asked.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive()
    first, *lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def test_the_handshake_of_a_websocket_that_comes_too_often_is_refused_with_429(serve: Serve) -> None:
    agent = Agent("offline")

    @agent.blueprint.websocket("/ws")
    async def echo() -> None:
        await websocket.accept()
        await websocket.send("let in")

    async with serve(agent, rate_limit="2/hour") as client:
        answers = [await handshake(str(client.base_url)) for _ in range(3)]
    assert [status for status, _ in answers] == [101, 101, 429]
    assert answers[2][1]["content-type"] == "application/problem+json"
    assert int(answers[2][1]["retry-after"]) > 1000


# Over replicas.


USERS = int(os.environ.get("DEFINABLE_LIMITED_USERS", "10"))
"""At their limit; as many others call rarely. With 1,000 of them it takes minutes."""

CALLS = 30
"""Of each user at its limit."""

PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "redis": lambda url: {"bus": RedisBus(url)},
    "postgres": lambda dsn: {"sessions": PostgresSessionStore(dsn)},
}


@pytest.fixture(params=PARTS)
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What two agents have in common that share a server."""
    found = request.getfixturevalue(request.param)
    where = found if isinstance(found, str) else found.url
    return {"make": lambda: Agent("offline", auth=JWTAuth(SECRET), **PARTS[request.param](where))}


class Caller:
    """A user who calls one replica after the other.

    Args:
        name: Its name.
        rate: What it may.
        connections: Of all callers to a replica: beyond it the client's own queue would time out.
    """

    def __init__(self, name: str, rate: Rate, connections: anyio.CapacityLimiter) -> None:
        self.name = name
        self._headers = user(name)
        self._connections = connections
        self.let_through = self.model_let_through = 0
        self.seconds: list[float] = []
        self._rate = rate
        self._model = MemoryLimits()

    async def call(self, replicas: Sequence[httpx2.AsyncClient], times: int, pause: float = 0.0) -> None:
        for number in range(times):
            async with self._connections:
                began = anyio.current_time()
                response = await replicas[number % len(replicas)].get("/runs", headers=self._headers)
                ended = anyio.current_time()
            assert response.status_code in (200, 429)
            self.let_through += response.status_code == 200
            self.model_let_through += not self._model.taken(self.name, self._rate, (began + ended) / 2)
            self.seconds.append(ended - began)
            await anyio.sleep(pause)


async def test_each_user_at_its_limit_gets_what_it_may_over_replicas_and_others_do_not_notice(
    place: dict[str, Any],
) -> None:
    rate = "20/hour"  # with 1,000 users the calls of one are far apart
    connections = anyio.CapacityLimiter(80)
    greedy = [Caller(f"greedy {number}", rate_of(rate), connections) for number in range(USERS)]
    modest = [Caller(f"modest {number}", rate_of(rate), connections) for number in range(USERS)]
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(served(place["make"](), rate_limit=rate)) for _ in range(2)]
        replicas = [service.client for service in services]
        with anyio.fail_after(120 + USERS):
            async with anyio.create_task_group() as group:
                for caller in greedy:
                    group.start_soon(caller.call, replicas, CALLS)
                for caller in modest:
                    group.start_soon(caller.call, replicas, 6, 0.01)
    waits = sorted(seconds for caller in modest for seconds in caller.seconds)
    logger.info(
        "%d users at their limit: %d of %d calls let through, where %d may be; of others %d of %d, median %.3f s",
        USERS,
        sum(caller.let_through for caller in greedy),
        USERS * CALLS,
        sum(caller.model_let_through for caller in greedy),
        sum(caller.let_through for caller in modest),
        len(waits),
        waits[len(waits) // 2],
    )
    for caller in greedy:  # of 20 calls one is 5 %; the server saw each call somewhat sooner or later than its caller
        assert abs(caller.let_through - caller.model_let_through) <= 0.05 * caller.model_let_through + 1, caller.name
    assert [caller.let_through for caller in modest] == [6] * USERS


@pytest.mark.parametrize("server", ["redis", "postgres"])
async def test_while_its_server_is_away_each_replica_limits_by_itself(
    request: pytest.FixtureRequest, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = request.getfixturevalue(f"own_{server}")
    agent = Agent("offline", auth=JWTAuth(SECRET), **PARTS[server](own.url))
    async with served(agent, rate_limit="3/hour", shutdown_timeout=5) as service:
        assert await statuses(service.client, 2, headers=user("ann")) == {200: 2}
        own.kill()
        assert await statuses(service.client, 5, headers=user("bob")) == {200: 3, 429: 2}
        assert caplog.text.count("of this process alone") == 1
        own.start()
        with anyio.fail_after(60):  # from here on it is asked again, and knows nothing of bob
            while await statuses(service.client, 1, headers=user("bob")) == {429: 1}:
                await anyio.sleep(0.05)


# Failed logins.


async def test_failed_logins_of_an_address_are_slowed_and_right_ones_are_not(serve: Serve) -> None:
    agent = Agent("offline", auth=CompositeAuth(APIKeyAuth("k"), JWTAuth(SECRET)))
    async with serve(agent) as client:
        assert await statuses(client, 20, headers={"x-api-key": "guess"}) == {401: 20}
        answered: list[int] = []

        async def guess() -> None:
            answered.append((await client.get("/runs", headers={"x-api-key": "guess"})).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(15):
                group.start_soon(guess)
            with anyio.fail_after(30):
                while answered.count(429) < 5:
                    await anyio.sleep(0.01)
            assert 401 not in answered, "the others are held back"
            group.cancel_scope.cancel()
        with anyio.fail_after(30):
            while (await client.get("/runs", headers={"x-api-key": "k"})).status_code == 429:
                await anyio.sleep(0.05)  # until the server has noticed that those who guessed are gone
        assert await statuses(client, 50, headers={"x-api-key": "k"}) == {200: 50}


@pytest.mark.parametrize("option", ["rate_limit", "address_rate_limit"])
@pytest.mark.parametrize("value", ["", "often", "0/minute", 60, ["60/minute"]])
async def test_a_rate_is_checked_at_the_start(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="60/minute"):
        async with Agent("offline").running(port=0, **{option: value}):
            pass
