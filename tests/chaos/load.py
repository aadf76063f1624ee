"""The clients of the chaos service: honest, slow, gone and hostile ones; they count what was promised."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import httpx2
from chaos.line_chat import LineServer
from chaos.plan import ENDLESS, HARMLESS, MODEL_FAULTS, RAISED

TIMEOUT = 5.0
"""Seconds that a client waits for an answer."""

PATIENCE = 0.2
"""Seconds between two requests of one client, at most."""

HOSTILE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000,
    b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"POST /accept HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20000\r\n\r\n"
    + b"[" * 20_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
    b"\x00" * 1_000,
)


@dataclass
class Tally:
    """What the clients of all lives saw."""

    promised: set[str] = field(default_factory=set)
    """Work that was accepted for later: ids of deliveries and of runs."""
    accepted: int = 0
    """202s of this life."""
    unsure: int = 0
    """Requests of this life that might have been accepted and were not answered."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Of the answers of this life to honest requests."""

    def begin_life(self, *, forget: bool) -> None:
        """Count anew; with `forget` also what was promised, which died with a life whose bus is memory."""
        if forget:
            self.promised = set()
        self.accepted = self.unsure = 0
        self.statuses = Counter()


class Load:
    """The clients of one life.

    Args:
        url: Of the service.
        chat: The platform on which somebody writes.
        tally: Where they count.
        seed: Of what they do.
        endless: Whether they ask for what never ends.
        ids: Numbers for what they send; no two lives have the same.
    """

    def __init__(
        self, url: str, chat: LineServer, tally: Tally, seed: int, *, endless: bool, ids: itertools.count[int]
    ) -> None:
        self._url = url
        self._chat = chat
        self._tally = tally
        self._chance = random.Random(seed)
        self._deeds = HARMLESS + (ENDLESS if endless else ())
        self._ids = ids
        self._port = int(url.rsplit(":", 1)[1])

    async def run(self) -> None:
        """Go on until cancelled; a service that is gone is no failure."""
        async with anyio.create_task_group() as clients:
            for behave in (
                *(self.wait, self.accept, self.accept, self.run_plainly, self.stream, self.run_in_background),
                *(self.emit, self.write, self.go_away, self.be_slow, self.attack),
            ):
                clients.start_soon(self._repeat, behave)

    async def interrupt(self) -> None:
        """Have a handler raise KeyboardInterrupt."""
        async with self._client() as client:
            try:
                await client.post("/wait", json={"id": "interrupt", "do": "interrupt"})
            except httpx2.HTTPError:
                pass

    # --- honest clients

    async def wait(self, client: httpx2.AsyncClient) -> None:
        if self._chance.random() < 0.3:
            deed = self._chance.choice(("thread", "exit thread", *RAISED))
            await self._post(client, "/thread", {"id": self._id("t"), "do": deed})
            return
        id = self._id("w")
        await self._post(client, "/wait", self._job(id), {"X-Delivery": id})

    async def accept(self, client: httpx2.AsyncClient) -> None:
        id = self._id("a")
        job = self._job(id) | ({"input": self._input()} if self._chance.random() < 0.3 else {})
        status, _ = await self._post(client, "/accept", job, {"X-Delivery": id}, counts=True)
        if status == 202:
            self._tally.promised.add(id)

    async def run_plainly(self, client: httpx2.AsyncClient) -> None:
        await self._post(client, "/run", self._run())

    async def run_in_background(self, client: httpx2.AsyncClient) -> None:
        run = self._run()
        status, answer = await self._post(client, "/run", run, {"Prefer": "respond-async"}, counts=True)
        # Of what is no `Exception` no hook is told, so it is not noted down.
        if status == 202 and not str(run["input"]).endswith(("exit", "mistake")):
            self._tally.promised.add(answer.json()["run_id"])

    async def stream(self, client: httpx2.AsyncClient) -> None:
        async with client.stream("POST", "/run", json=self._run(), headers={"Accept": "text/event-stream"}) as answer:
            is_last = self._chance.random() < 0.3
            async for _ in answer.aiter_lines():
                if is_last:
                    break

    async def emit(self, client: httpx2.AsyncClient) -> None:
        jobs = [self._job(self._id("e")) for _ in range(self._chance.choice((1, 5, 40)))]
        await self._post(client, "/emit", {"jobs": jobs})

    async def write(self, client: httpx2.AsyncClient) -> None:
        self._chat.say(self._chance.randrange(5), self._input())

    # --- others

    async def go_away(self, client: httpx2.AsyncClient) -> None:
        path = self._chance.choice(("/wait", "/run"))
        body = json.dumps({"id": self._id("g"), "do": "nap", "input": "hello stall"}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
            await stream.send(head.encode() + body[: self._chance.choice((0, 10, len(body)))])
            await anyio.sleep(self._chance.uniform(0, 0.05))

    async def be_slow(self, client: httpx2.AsyncClient) -> None:
        async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
            for byte in b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{":
                await stream.send(bytes([byte]))
                await anyio.sleep(0.02)

    async def attack(self, client: httpx2.AsyncClient) -> None:
        async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
            await stream.send(self._chance.choice(HOSTILE))
            with anyio.move_on_after(0.1):
                await stream.receive()

    # --- what they have in common

    async def _repeat(self, behave: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
        async with self._client() as client:
            while True:
                try:
                    await behave(client)
                except (httpx2.HTTPError, OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                    await anyio.sleep(0.1)
                await anyio.sleep(self._chance.uniform(0, PATIENCE))

    async def _post(
        self,
        client: httpx2.AsyncClient,
        path: str,
        body: object,
        headers: dict[str, str] | None = None,
        *,
        counts: bool = False,
    ) -> tuple[int, httpx2.Response]:
        self._tally.unsure += counts
        answer = await client.post(path, json=body, headers=headers)
        self._tally.unsure -= counts
        self._tally.statuses[answer.status_code] += 1
        self._tally.accepted += answer.status_code == 202
        return answer.status_code, answer

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self._url, timeout=TIMEOUT, trust_env=False, verify=False)

    def _id(self, kind: str) -> str:
        return f"{kind}{next(self._ids)}"

    def _input(self) -> str:
        return f"hello {self._chance.choice(MODEL_FAULTS)}"

    def _run(self) -> dict[str, object]:
        session = self._chance.choice((None, "s1", "s2", "s3"))
        return {"input": self._input()} | ({} if session is None else {"session_id": session})

    def _job(self, id: str) -> dict[str, object]:
        return {"id": id, "do": self._chance.choice(self._deeds)}
