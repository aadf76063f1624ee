"""A chat over TCP, line by line: what a messaging interface of your own looks like.

    python examples/custom_interface.py
    nc 127.0.0.1 4000

Needs no key: it runs on the offline model, which echoes. Every connection is a chat with a conversation of its own.
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from definable.agent import Agent
from definable.agent.interface import (
    Accept,
    BaseInterface,
    InterfaceConfig,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceResponse,
)

HUNG_UP = (anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.BrokenResourceError)


class LineChat(BaseInterface):
    def __init__(self, port: int = 4000) -> None:
        super().__init__(InterfaceConfig(platform="lines"))
        self.port = port
        self.streams: dict[str, SocketStream] = {}
        self.turns: dict[str, anyio.Event] = {}

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[None, None]:
        yield  # outlives `receive`: what was accepted before a stop is answered still
        for stream in self.streams.values():
            await stream.aclose()

    async def receive(self, accept: Accept) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port) as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            await listener.serve(lambda stream: self.converse(stream, accept))

    async def converse(self, stream: SocketStream, accept: Accept) -> None:
        user, lines = str(stream.extra(SocketAttribute.remote_port)), BufferedByteReceiveStream(stream)
        self.streams[user] = stream
        with suppress(*HUNG_UP):
            while True:
                text = (await lines.receive_until(b"\n", 10_000)).decode(errors="replace")
                turn = self.turns[user] = anyio.Event()
                await accept(InterfaceMessage("lines", user, user, "", text=text))
                await turn.wait()
        del self.streams[user]
        await stream.aclose()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        stream = self.streams.get(message.platform_chat_id)
        if stream is None:
            raise InterfaceMessageError("the user has hung up")
        await stream.send(f"{response.content}\n".encode())

    def handled(self, message: InterfaceMessage) -> None:
        if message.platform_chat_id in self.turns:
            self.turns.pop(message.platform_chat_id).set()


if __name__ == "__main__":
    Agent(model="offline").serve(LineChat(int(sys.argv[1]) if len(sys.argv) > 1 else 4000), enable_server=False)
