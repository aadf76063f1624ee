"""Three journeys through `definable/`, recorded: which files and functions a piece of work passes on its way.

`test_journeys.py` bounds the number of files. To read a walk, call by call (Redis: at `REDIS_URL`, or one of its own):

    PYTHONPATH=tests python -m tests.journeys webhook trio
    PYTHONPATH=tests python -m tests.journeys event asyncio
    PYTHONPATH=tests python -m tests.journeys chat trio
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import anyio
from loopback.redis import running_redis
from loopback.telegram_bot import bot_for
from loopback.telegram_server import TelegramServer

import definable
from definable.agent import Agent
from definable.agent.bus import RedisBus
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook

PACKAGE = f"{Path(definable.__file__).parent}{os.sep}"

WARM_UP = 3
"""Pieces of work before the one that is recorded: what is made once (a connection, a script) is not on the way."""

REQUEST = (
    b"POST /github HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 19\r\n"
    b'Connection: close\r\n\r\n{"action":"opened"}'
)


@dataclass
class Walk:
    """The calls of functions in `definable/`, in order; a coroutine that goes on is not called again."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    """File below `definable/`, and qualified name."""

    @property
    def files(self) -> list[str]:
        """In the order in which they are first entered."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    @contextmanager
    def recorded(self) -> Generator[None, None, None]:
        """Record the calls of this thread and of threads that it starts."""
        seen: dict[int, FrameType] = {}  # kept, so that no other frame gets the same id

        def profile(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(PACKAGE) and id(frame) not in seen:
                seen[id(frame)] = frame
                name = frame.f_code.co_filename.removeprefix(PACKAGE).replace(os.sep, "/")
                self.calls.append((name, frame.f_code.co_qualname))

        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
            seen.clear()


async def webhook() -> Walk:
    """A webhook on a new connection whose handler has the agent run, until the last byte of the answer."""
    agent = Agent("offline")

    @agent.on(Webhook("/github"))
    async def on_github(event: TriggerEvent) -> str:
        return f"Summarize {event.body}"

    walk = Walk()
    async with agent.running(host="127.0.0.1", port=0) as runtime:
        assert runtime.url is not None
        port = int(runtime.url.rpartition(":")[2])
        for _ in range(WARM_UP):
            await post(port)
        with walk.recorded():
            answer = await post(port)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return walk


async def post(port: int) -> bytes:
    answer = b""
    async with await anyio.connect_tcp("127.0.0.1", port) as connection:
        await connection.send(REQUEST)
        async for part in connection:
            answer += part
    return answer


async def event(redis_url: str) -> Walk:
    """`emit` to the handler's end, over Redis."""
    agent = Agent("offline", bus=RedisBus(redis_url))
    handled: set[int] = set()

    @agent.on(EventTrigger("user.*"))
    async def on_user(event: TriggerEvent) -> None:
        handled.add(event.body["number"])

    async def emitted(number: int) -> None:
        agent.emit("user.created", {"number": number})
        with anyio.fail_after(20):
            while number not in handled:
                await anyio.sleep(0.002)
        await anyio.sleep(0.05)  # for the acknowledgement

    walk = Walk()
    async with agent.running(enable_server=False):
        for number in range(WARM_UP):
            await emitted(number)
        with walk.recorded():
            await emitted(WARM_UP)
    return walk


async def chat() -> Walk:
    """A message on Telegram to the reply in the chat, over the memory bus."""
    walk = Walk()
    async with TelegramServer().running() as server:
        agent = Agent("offline")

        async def answered(chat: int) -> None:
            server.write("hello", chat=chat)
            await server.until(lambda state: state.sent(chat))

        async with agent.running(bot_for(server, polling_interval=0.05), enable_server=False):
            for number in range(WARM_UP):
                await answered(number + 1)
            with walk.recorded():
                await answered(77)
                await anyio.sleep(0.02)
    return walk


def main() -> None:
    name, backend = sys.argv[1:]
    logging.disable(logging.INFO)
    if name == "event":
        with tempfile.TemporaryDirectory() as directory, running_redis(Path(directory)) as server:
            walk = anyio.run(event, os.environ.get("REDIS_URL", server.url), backend=backend)
    else:
        walk = anyio.run({"webhook": webhook, "chat": chat}[name], backend=backend)
    last = ""
    for file, function in walk.calls:
        print(f"{file if file != last else '':45} {function}")  # noqa: T201
        last = file
    print(f"{len(walk.files)} files, {len(walk.calls)} calls", *walk.files, sep="\n  ")  # noqa: T201


if __name__ == "__main__":
    main()
