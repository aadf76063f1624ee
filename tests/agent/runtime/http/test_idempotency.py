"""`Idempotency-Key` on `POST /run`: a request that is sent again gets the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import EventReader, Held, RawClient, Serve, assert_problem

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.bus import EventBus, PostgresBus, RedisBus
from definable.agent.runtime.http import idempotency
from definable.errors import ModelError
from definable.model import OfflineModel
from definable.testing import served

pytestmark = pytest.mark.anyio

KEY = {"idempotency-key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}

BODY = {"input": "hi"}


class Counted:
    """A model's answers, each another one."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.count = 0
        self.failure = failure

    async def __call__(self, *_: Any) -> str:
        self.count += 1
        if self.failure is not None:
            raise self.failure
        return f"answer {self.count}"


def counting() -> tuple[Agent, Counted]:
    answers = Counted()
    return Agent(OfflineModel(answers)), answers


async def test_a_repeat_has_the_same_answer_and_makes_no_run(serve: Serve) -> None:
    agent, answers = counting()
    async with serve(agent) as client:
        first = await client.post("/run", json=BODY, headers=KEY)
        again = await client.post("/run", json=BODY, headers=KEY)
        bare = await client.post("/run", json=BODY, headers={"idempotency-key": KEY["idempotency-key"].strip('"')})
        assert {first.status_code, again.status_code, bare.status_code} == {200}
        assert first.content == again.content == bare.content
        assert again.headers["content-type"] == "application/json"
        assert answers.count == 1
        other = await client.post("/run", json=BODY, headers={"idempotency-key": "another"})
        assert (other.json()["content"], (await client.post("/run", json=BODY)).json()["content"]) == (
            "answer 2",
            "answer 3",
        )


async def test_another_body_is_refused() -> None:
    agent, answers = counting()
    async with served(agent) as service:
        await service.client.post("/run", json=BODY, headers=KEY)
        problem = await service.client.post("/run", json={"input": "another"}, headers=KEY)
        assert_problem(problem, 422)
        assert "another body" in problem.json()["detail"]
    assert answers.count == 1


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_repeat_while_the_first_goes_on_is_told_so_and_has_its_answer_later(accept: str) -> None:
    hold = Held("done")
    async with served(Agent(OfflineModel(hold))) as service, anyio.create_task_group() as group:
        client, headers = service.client, {**KEY, "accept": accept}
        first: list[httpx2.Response] = []

        async def ask() -> None:
            first.append(await client.post("/run", json=BODY, headers=headers))

        group.start_soon(ask)
        await hold.until(lambda held: held.arrived == 1)
        problem = await client.post("/run", json=BODY, headers=headers)
        assert_problem(problem, 409)
        assert problem.headers["retry-after"] == "1"
        assert (await client.get(problem.headers["location"])).json()["status"] == "running"
        hold.go_on.set()
        while not first:
            await anyio.sleep(0.005)
        again = await client.post("/run", json=BODY, headers=headers)
        assert (again.status_code, again.headers["content-type"]) == (200, first[0].headers["content-type"])
        if accept == "application/json":
            assert again.content == first[0].content
        else:  # its events are not remembered; the last one says it all
            assert "event: run_ended" in again.text and problem.json()["run_id"] in again.text
    assert hold.arrived == 1


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_run_goes_on_when_its_client_leaves_and_waits_for_it(accept: str) -> None:
    hold = Held("done")
    body = b'{"input": "hi"}'
    async with served(Agent(OfflineModel(hold))) as service:
        client, headers = service.client, {**KEY, "accept": accept, "content-type": "application/json"}
        async with await anyio.connect_tcp("127.0.0.1", client.base_url.port or 0) as stream:
            lines = [b"POST /run HTTP/1.1", b"host: localhost", b"content-length: %d" % len(body)]
            lines += [f"{name}: {value}".encode() for name, value in headers.items()]
            await RawClient(stream).send(b"\r\n".join([*lines, b"", body]))
            await hold.until(lambda held: held.arrived == 1)
        hold.go_on.set()
        await hold.until(lambda held: held.ended == 1)
        with anyio.fail_after(30):
            while (again := await client.post("/run", content=body, headers=headers)).status_code == 409:
                await anyio.sleep(0.01)
        assert again.status_code == 200
        assert "done" in again.text
    assert (hold.arrived, hold.cancelled) == (1, 0)


async def test_a_run_in_the_background_is_promised_once() -> None:
    agent, answers = counting()
    async with served(agent) as service:
        headers = {**KEY, "prefer": "respond-async"}
        first = await service.client.post("/run", json=BODY, headers=headers)
        again = await service.client.post("/run", json=BODY, headers=headers)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.headers["location"] == again.headers["location"]
        assert first.content == again.content
    assert answers.count == 1


async def test_one_callers_keys_are_not_anothers() -> None:
    agent, answers = counting()
    agent.auth = APIKeyAuth({"a-long-key-of-one", "a-long-key-of-two"})
    async with served(agent) as service:
        for number, key in enumerate(("a-long-key-of-one", "a-long-key-of-two") * 2):
            response = await service.client.post("/run", json=BODY, headers={**KEY, "x-api-key": key})
            assert response.json()["content"] == f"answer {number % 2 + 1}"
        acting = {**BODY, "user_id": "anna"}
        headers = {**KEY, "x-api-key": "a-long-key-of-one"}
        assert (await service.client.post("/run", json=acting, headers=headers)).json()["content"] == "answer 3"
    assert answers.count == 3


async def test_a_run_that_has_failed_is_not_made_again() -> None:
    answers = Counted(ModelError("down"))
    async with served(Agent(OfflineModel(answers))) as service:
        first = await service.client.post("/run", json=BODY, headers=KEY)
        again = await service.client.post("/run", json=BODY, headers=KEY)
        assert_problem(first, 502)
        assert (again.status_code, again.content, again.headers["content-type"]) == (
            502,
            first.content,
            first.headers["content-type"],
        )
    assert answers.count == 1


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_what_was_refused_before_it_began_may_come_again(accept: str) -> None:
    hold = Held("done")
    async with served(Agent(OfflineModel(hold)), max_concurrent_runs=1) as service, anyio.create_task_group() as group:
        client, headers = service.client, {**KEY, "accept": accept}
        group.start_soon(lambda: client.post("/run", json=BODY))
        await hold.until(lambda held: held.arrived == 1)
        for _ in range(2):
            assert_problem(await client.post("/run", json=BODY, headers=headers), 503)
        assert_problem(
            await client.post("/run", content=b"{", headers={**headers, "content-type": "application/json"}), 400
        )
        hold.go_on.set()
        with anyio.fail_after(30):
            while (response := await client.post("/run", json=BODY, headers=headers)).status_code == 503:
                await anyio.sleep(0.01)
        assert response.status_code == 200


@pytest.mark.parametrize("key", ['""', "a b", '"a', "x" * 256, '"a", "b"', "ä"])
async def test_what_is_no_key_is_refused(key: str) -> None:
    agent, answers = counting()
    async with served(agent) as service:
        headers: dict[str, Any] = {"idempotency-key": key.encode("latin-1")}
        assert_problem(await service.client.post("/run", json=BODY, headers=headers), 400)
    assert answers.count == 0


async def contents(client: httpx2.AsyncClient, keys: Sequence[int]) -> list[str]:
    made: list[str] = []
    for key in keys:
        response = await client.post("/run", json=BODY, headers={"idempotency-key": f"key-{key}"})
        made.append(response.json()["content"].split()[1])
    return made


async def test_the_oldest_are_forgotten_beyond_a_number_and_beyond_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = counting()
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    async with served(agent) as service:
        assert await contents(service.client, [1, 2, 3, 4]) == ["1", "2", "3", "4"]
        assert await contents(service.client, [4, 3, 2, 1]) == ["4", "3", "2", "5"]
        monkeypatch.setattr(idempotency, "MAX_BYTES", 1)
        assert await contents(service.client, [8, 9, 9, 8]) == ["6", "7", "7", "8"]


async def test_of_an_answer_that_is_too_large_it_is_remembered_that_there_was_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent, answers = counting()
    monkeypatch.setattr(idempotency, "MAX_ANSWER", 10)
    async with served(agent) as service:
        first = await service.client.post("/run", json=BODY, headers=KEY)
        problem = await service.client.post("/run", json=BODY, headers=KEY)
        assert_problem(problem, 409)
        shown = await service.client.get(problem.headers["location"])
        assert shown.json()["content"] == first.json()["content"]
    assert answers.count == 1


async def test_a_key_is_forgotten_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, answers = counting()
    monkeypatch.setattr(idempotency, "TTL", -1.0)
    async with served(agent) as service:
        for _ in range(2):
            await service.client.post("/run", json=BODY, headers=KEY)
    assert answers.count == 2


@pytest.fixture(params=["redis", "postgres"])
def new_bus(request: pytest.FixtureRequest) -> Callable[[], EventBus]:
    """One that replicas share, for each of them."""
    if request.param == "redis":
        return partial(RedisBus, request.getfixturevalue("redis").url)
    return partial(PostgresBus, request.getfixturevalue("postgres"))


async def test_replicas_share_what_they_have_answered(new_bus: Callable[[], EventBus]) -> None:
    hold = Held("done")
    one = Agent(OfflineModel(hold), bus=new_bus(), name="shared")
    two = Agent(OfflineModel(hold), bus=new_bus(), name="shared")
    with anyio.fail_after(60):
        async with served(one) as first, served(two) as second, anyio.create_task_group() as group:
            answers: list[httpx2.Response] = []

            async def ask() -> None:
                answers.append(await first.client.post("/run", json=BODY, headers=KEY))

            group.start_soon(ask)
            await hold.until(lambda held: held.arrived == 1)
            assert_problem(await second.client.post("/run", json=BODY, headers=KEY), 409)
            assert_problem(await second.client.post("/run", json={"input": "another"}, headers=KEY), 422)
            hold.go_on.set()
            while not answers:
                await anyio.sleep(0.01)
            again = await second.client.post("/run", json=BODY, headers=KEY)
            assert (again.status_code, again.content) == (200, answers[0].content)
            assert again.headers["content-type"] == answers[0].headers["content-type"]
    assert hold.arrived == 1


async def test_a_replica_that_is_cut_off_frees_the_key(new_bus: Callable[[], EventBus]) -> None:
    hold = Held("done")
    one = Agent(OfflineModel(hold), bus=new_bus(), name="cut")
    two = Agent("offline", bus=new_bus(), name="cut")
    with anyio.fail_after(60):
        async with served(two) as second, anyio.create_task_group() as group:
            async with served(one, shutdown_timeout=0) as first:

                async def ask() -> None:
                    with suppress(httpx2.HTTPError):
                        await first.client.post("/run", json=BODY, headers=KEY)

                group.start_soon(ask)
                await hold.until(lambda held: held.arrived == 1)
            answer = await second.client.post("/run", json=BODY, headers=KEY)
            assert (answer.status_code, answer.json()["content"]) == (200, "hi")


async def test_a_stream_that_has_failed_ends_so_again() -> None:
    answers = Counted(ModelError("down"))
    async with served(Agent(OfflineModel(answers))) as service:
        for _ in range(2):
            headers = {**KEY, "accept": "text/event-stream"}
            async with service.client.stream("POST", "/run", json=BODY, headers=headers) as response:
                assert (await EventReader(response).all())[-1].name == "run_failed"
    assert answers.count == 1
