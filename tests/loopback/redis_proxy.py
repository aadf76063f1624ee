"""A proxy before a real Redis: it alters answers, delays them, or forgets connections, as broken middleboxes do."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

Alter = Callable[[bytes], bytes]
"""From a whole answer, as RESP has it, to what the client gets."""

LIMIT = 60.0
"""Seconds that a test may hang."""

GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


def whole_answer(data: bytes, start: int = 0) -> int | None:
    """Where the answer that begins at `start` ends; None when it has not come in whole (RESP2 and RESP3)."""
    end = data.find(b"\r\n", start)
    if end < 0:
        return None
    kind, head, end = data[start : start + 1], data[start + 1 : end], end + 2
    if kind in b"$=!":
        end += int(head) + 2 if int(head) >= 0 else 0
        return end if end <= len(data) else None
    if kind in b"*~>%|":
        for _ in range(max(int(head), 0) * (2 if kind in b"%|" else 1)):
            inner = whole_answer(data, end)
            if inner is None:
                return None
            end = inner
    return end


@dataclass
class RedisProxy:
    """Forwards what clients say, and alters what the server answers while `alter` is set."""

    server_port: int
    port: int = 0
    alter: Alter | None = None
    delay: float = 0.0
    """Seconds that everything takes on its way to the server, and again on its way back."""
    altered: int = field(default=0, init=False)
    connections: int = field(default=0, init=False)
    """How many there ever were."""
    _forgotten: int = field(default=0, init=False)

    def forget_all(self) -> None:
        """Forward nothing more of the connections that there are, and tell nobody; new ones work."""
        self._forgotten = self.connections

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._serve)

    async def _serve(self, client: SocketStream) -> None:
        self.connections += 1
        number = self.connections
        async with client, await anyio.connect_tcp("127.0.0.1", self.server_port) as server:
            async with anyio.create_task_group() as both:

                async def pass_on(source: SocketStream, target: SocketStream, alter: bool) -> None:
                    if self.delay:
                        await self._delayed(source, target)
                    else:
                        with suppress(*GONE):
                            await self._pass_on(source, target, number, alter)
                    both.cancel_scope.cancel()

                both.start_soon(pass_on, client, server, False)
                both.start_soon(pass_on, server, client, True)

    async def _delayed(self, source: SocketStream, target: SocketStream) -> None:
        """Any number of bytes may be on their way."""
        into, out = anyio.create_memory_object_stream[tuple[float, bytes]](math.inf)

        async def receive() -> None:
            with into, suppress(*GONE):
                while True:
                    data = await source.receive()
                    into.send_nowait((anyio.current_time() + self.delay, data))

        async with out, anyio.create_task_group() as group:
            group.start_soon(receive)
            with suppress(*GONE):
                async for at, data in out:
                    await anyio.sleep_until(at)
                    await target.send(data)
            group.cancel_scope.cancel()

    async def _pass_on(self, source: SocketStream, target: SocketStream, number: int, alter: bool) -> None:
        pending = b""
        while True:
            pending += await source.receive()
            if number <= self._forgotten:
                pending = b""
                continue
            out = b""
            if not alter:
                out, pending = pending, b""
            while pending and (end := whole_answer(pending)) is not None:
                answer, pending = pending[:end], pending[end:]
                if self.alter is not None:
                    altered = self.alter(answer)
                    self.altered += altered != answer
                    answer = altered
                out += answer
            if out:
                await target.send(out)


@asynccontextmanager
async def proxied(server_port: int, **options: Any) -> AsyncIterator[RedisProxy]:
    """A proxy while the context is open."""
    proxy = RedisProxy(server_port, **options)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            await group.start(proxy.run)
            yield proxy
            group.cancel_scope.cancel()
