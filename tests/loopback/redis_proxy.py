"""A proxy before a real Redis that alters its answers: as a broken middlebox would, or another program on the port."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

Alter = Callable[[bytes], bytes]
"""From a whole answer, as RESP has it, to what the client gets."""


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
    altered: int = field(default=0, init=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._serve)

    async def _serve(self, client: SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", self.server_port) as server:
            async with anyio.create_task_group() as both:

                async def forward() -> None:
                    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                        while True:
                            await server.send(await client.receive())
                    both.cancel_scope.cancel()

                both.start_soon(forward)
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await self._answer(server, client)
                both.cancel_scope.cancel()

    async def _answer(self, server: SocketStream, client: SocketStream) -> None:
        pending = b""
        while True:
            pending += await server.receive()
            out = b""
            while pending and (end := whole_answer(pending)) is not None:
                answer, pending = pending[:end], pending[end:]
                if self.alter is not None:
                    altered = self.alter(answer)
                    self.altered += altered != answer
                    answer = altered
                out += answer
            if out:
                await client.send(out)
