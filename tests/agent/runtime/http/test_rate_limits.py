"""Who calls too often: per user, per key, per address, over replicas; and failed logins."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import time
from typing import Any

import anyio
import httpx2
import jwt
import pytest
from loopback.agent_api import Serve, assert_problem
from loopback.redis import RedisServer
from quart import websocket

from definable.agent import Agent
from definable.agent.auth import APIKey, APIKeyAuth, AuthContext, AuthRequest, CompositeAuth, JWTAuth
from definable.agent.bus import RedisBus
from definable.agent.session import RedisSessionStore
from definable.agent.trigger import Webhook
from definable.errors import ConfigurationError
from definable.testing import served

pytestmark = pytest.mark.anyio

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


# Over replicas.


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    try:
        yield server
    finally:
        server.kill()


PARTS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "bus": lambda url, prefix: {"bus": RedisBus(url, prefix=prefix)},
    "sessions": lambda url, prefix: {"sessions": RedisSessionStore(url, prefix=prefix)},
}


@pytest.fixture(params=PARTS)
async def replicas(
    request: pytest.FixtureRequest, redis: RedisServer, anyio_backend: str
) -> AsyncIterator[list[httpx2.AsyncClient]]:
    prefix = f"{request.param}-{anyio_backend}-{time()}"
    async with AsyncExitStack() as stack:
        clients: list[httpx2.AsyncClient] = []
        for _ in range(2):
            agent = Agent("offline", auth=JWTAuth(SECRET), **PARTS[request.param](redis.url, prefix))
            service = await stack.enter_async_context(served(agent, rate_limit="20/hour"))
            clients.append(service.client)
        yield clients


async def test_replicas_share_the_rate_of_each_user(replicas: list[httpx2.AsyncClient]) -> None:
    got: dict[str, Counter[int]] = {}

    async def call(name: str, times: int) -> None:
        counts = [await statuses(client, times, headers=user(name)) for client in replicas]
        got[name] = counts[0] + counts[1]

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(call, f"greedy {number}", 15)
                group.start_soon(call, f"modest {number}", 5)
    for name, counts in got.items():
        assert counts == ({200: 20, 429: 10} if name.startswith("greedy") else {200: 10})


async def test_while_redis_is_away_each_replica_limits_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path)
    await anyio.to_thread.run_sync(server.start)
    try:
        agent = Agent("offline", auth=JWTAuth(SECRET), sessions=RedisSessionStore(server.url))
        async with served(agent, rate_limit="3/hour") as service:
            assert await statuses(service.client, 2, headers=user("ann")) == {200: 2}
            server.kill()
            assert await statuses(service.client, 5, headers=user("bob")) == {200: 3, 429: 2}
            assert caplog.text.count("of this process alone") == 1
    finally:
        server.kill()


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
