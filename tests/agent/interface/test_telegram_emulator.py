"""A bot against telegram-test-api (npm), a Bot API that others wrote: what passes there is not merely our reading."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from loopback.node_package import NodeMissing, install

from definable.agent import Agent
from definable.agent.interface import (
    Button,
    InterfaceHook,
    InterfaceMessage,
    InterfaceResponse,
    InterfaceSession,
    TelegramInterface,
)

pytestmark = pytest.mark.anyio

PACKAGE, VERSION = "telegram-test-api", "4.2.1"

SERVE = """
const TelegramServer = require(process.argv[1]);
new TelegramServer({ port: Number(process.argv[2]), host: "127.0.0.1" }).start().then(() => console.log("serving"));
"""

USER: dict[str, Any] = {"id": 1, "first_name": "Ann", "username": "ann", "is_bot": False}


@pytest.fixture(scope="session")
def emulator(pytestconfig: pytest.Config) -> Iterator[str]:
    """Its URL."""
    assert pytestconfig.cache is not None
    try:
        node, package = install(Path(pytestconfig.cache.mkdir(PACKAGE)), PACKAGE, VERSION)
    except NodeMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([node, "-e", SERVE, str(package), str(port)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "serving\n"
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


class Asks(InterfaceHook):
    """Answers with buttons; a button is answered with its value."""

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse:
        if message.button is not None:
            return InterfaceResponse(f"pressed {message.button}")
        return InterfaceResponse(response.content, buttons=((Button("Yes", "yes:7"), Button("No")),))


class Chat:
    """A user's side of the emulator."""

    def __init__(self, client: httpx2.AsyncClient, token: str) -> None:
        self._client = client
        self._token = token
        self._place = {"from": USER, "chat": {"id": 1, "type": "private"}, "botToken": token, "date": 1_700_000_000}

    async def write(self, text: str) -> None:
        await self._client.post("/sendMessage", json=self._place | {"text": text})

    async def press(self, data: str, message: dict[str, Any]) -> None:
        under = {"message_id": message["messageId"], "date": 1_700_000_000, "chat": {"id": 1, "type": "private"}}
        under["reply_markup"] = message["message"]["reply_markup"]
        await self._client.post("/sendCallback", json=self._place | {"data": data, "message": under})

    async def answers(self, count: int) -> list[dict[str, Any]]:
        """What the bot has sent, once it is so much."""
        while True:
            response = await self._client.post("/getUpdatesHistory", json={"token": self._token})
            sent = [each for each in response.json()["result"] if "chat_id" in each.get("message", {})]
            if len(sent) >= count:
                return sent
            await anyio.sleep(0.05)


async def test_messages_and_buttons_go_there_and_back(emulator: str, anyio_backend_name: str) -> None:
    token = f"{len(anyio_backend_name)}:{'x' * 35}"  # a bot for each backend
    bot = TelegramInterface(
        bot_token=token, base_url=emulator, hooks=[Asks()], polling_interval=0.05, typing_indicator=False, collect=0
    )
    async with httpx2.AsyncClient(base_url=emulator, trust_env=False) as client:
        chat = Chat(client, token)
        async with Agent("offline").running(bot, enable_server=False):
            with anyio.fail_after(60):
                await chat.write("**hello** <you>")
                (answer,) = await chat.answers(1)
                assert answer["message"]["text"] == "hello <you>"
                assert answer["message"]["entities"] == [{"type": "bold", "offset": 0, "length": 5}]
                await chat.press("yes:7", answer)
                assert [each["message"]["text"] for each in await chat.answers(2)] == ["hello <you>", "pressed yes:7"]
