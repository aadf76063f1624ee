"""A messaging platform of lines over TCP: the server that a test runs, and an interface that crashes at every await."""

from __future__ import annotations

import itertools
import random
import sys
from collections import deque

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from chaos.misbehaviour import raise_mistake
from chaos.plan import RAISED

from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse

LONGEST_LINE = 10_000

HUNG_UP = (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class LineServer:
    """The platform. Hands out each line until it is acknowledged, as Telegram does, so an id may come twice."""

    def __init__(self) -> None:
        self.port = 0
        self.said: set[str] = set()
        self.accepted: set[str] = set()
        """What the interface has said that it accepted."""
        self.answered: list[str] = []
        self._waiting: deque[str] = deque()
        self._numbers = itertools.count()

    def say(self, chat: int, text: str) -> None:
        """Have somebody write."""
        id = f"m{next(self._numbers)}"
        self.said.add(id)
        self._waiting.append(f"{id} {chat} {text}")

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._converse)

    async def _converse(self, stream: SocketStream) -> None:
        lines = BufferedByteReceiveStream(stream)
        try:
            async with stream:
                while True:
                    word, _, rest = (await lines.receive_until(b"\n", LONGEST_LINE)).decode().partition(" ")
                    await self._take(word, rest, stream)
        except HUNG_UP:
            pass

    async def _take(self, word: str, rest: str, stream: SocketStream) -> None:
        if word == "poll":
            await stream.send(f"{self._waiting[0] if self._waiting else ''}\n".encode())
        elif word == "accepted":
            if self._waiting and self._waiting[0].startswith(f"{rest} "):
                self._waiting.popleft()
            self.accepted.add(rest)
        else:
            self.answered.append(rest)


class LineChat(BaseInterface):
    """Polls the server; its faults are drawn from a seed.

    Args:
        port: The server's.
        faults: Where it may crash.
        seed: Of the faults.
    """

    def __init__(self, port: int, faults: tuple[str, ...], seed: int) -> None:
        limit = 1_000_000
        super().__init__(
            InterfaceConfig(collect=0, platform="lines", rate_limit_messages_per_minute=limit, typing_indicator=True)
        )
        self._port = port
        self._faults = faults
        self._chance = random.Random(seed)
        self._stream: SocketStream | None = None
        self.taken = 0
        """Messages that the pipeline accepted."""

    async def receive(self, accept: Accept) -> None:
        async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
            self._stream, lines = stream, BufferedByteReceiveStream(stream)
            while True:
                self._crash("receive")
                await stream.send(b"poll\n")
                line = (await lines.receive_until(b"\n", LONGEST_LINE)).decode()
                if not line:
                    await anyio.sleep(0.02)
                    continue
                id, chat, text = line.split(" ", 2)
                self.taken += await accept(InterfaceMessage("lines", f"u{chat}", chat, id, text=text))
                self._crash("accept")
                await stream.send(f"accepted {id}\n".encode())

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self._crash("send")
        async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
            await stream.send(f"answer {message.platform_message_id}\n".encode())

    async def complete(self, message: InterfaceMessage) -> InterfaceMessage:
        self._crash("complete")
        return message

    async def typing(self, message: InterfaceMessage) -> None:
        self._crash("typing")

    def handled(self, message: InterfaceMessage) -> None:
        self._crash("handled")

    def _crash(self, where: str) -> None:
        if self._chance.random() > 0.05 or not self._faults:
            return
        fault = self._chance.choice(self._faults)
        if fault == where:
            raise ConnectionResetError(f"a planned crash in {where}")
        if fault == "exit":
            sys.exit(9)
        if fault == "mistake":
            raise_mistake(self._chance.choice(RAISED))
