"""slack_sdk, Slack's own clients, against the loopback server: why the other tests may trust it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from loopback.slack import APP_TOKEN, BOT_TOKEN, SlackServer

pytest.importorskip("slack_sdk", reason="slack_sdk is not installed")

from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.socket_mode.aiohttp import SocketModeClient as AiohttpClient
from slack_sdk.socket_mode.builtin import SocketModeClient as BuiltinClient
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.socket_mode.websockets import SocketModeClient as WebsocketsClient
from slack_sdk.web import WebClient
from slack_sdk.web.async_client import AsyncWebClient

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]

ASYNC_CLIENTS: list[Any] = [AiohttpClient, WebsocketsClient]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the reference client knows no other


def web(server: SlackServer, token: str = BOT_TOKEN) -> AsyncWebClient:
    return AsyncWebClient(token, base_url=server.url)


@asynccontextmanager
async def listening(server: SlackServer, kind: Any) -> AsyncIterator[list[Any]]:
    """A client that acknowledges everything, and what it heard."""
    heard: list[Any] = []
    client = kind(app_token=APP_TOKEN, web_client=web(server))

    async def hear(client: Any, request: Any) -> None:
        heard.append((request.type, request.payload))
        await client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))

    client.socket_mode_request_listeners.append(hear)
    with anyio.fail_after(40):
        await client.connect()
        await server.until(lambda: server.on_line)
        try:
            yield heard
        finally:
            await client.close()


async def test_a_message_is_posted_changed_and_deleted() -> None:
    async with SlackServer().running() as server:
        client = web(server)
        assert (await client.auth_test())["user_id"] == server.bot_user
        posted = await client.chat_postMessage(channel="C1", text="one", thread_ts="1.2")
        blocks = [{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [
            {"type": "text", "text": "two", "style": {"bold": True}}]}]}]  # fmt: skip
        await client.chat_update(channel="C1", ts=posted["ts"], text="two", blocks=blocks)
        assert server.shown("C1", "1.2") == ["two"]
        await client.chat_delete(channel="C1", ts=posted["ts"])
        assert server.shown("C1") == [] and server.violations == []


async def test_a_file_is_uploaded() -> None:
    async with SlackServer().running() as server:
        await web(server).files_upload_v2(channel="C1", filename="a.txt", content="content", thread_ts="1.2")
        assert server.uploaded == [("C1", "1.2", "a.txt", b"content")]
        assert server.violations == []


async def test_users_channels_and_threads_are_read() -> None:
    async with SlackServer().running() as server:
        client, ts = web(server), await server.say("C1", "root")
        await server.say("C1", "reply", thread_ts=ts)
        replies: Any = await client.conversations_replies(channel="C1", ts=ts)
        assert [each["text"] for each in replies["messages"]] == ["root", "reply"]
        user: Any = await client.users_info(user="U1")
        assert user["user"]["profile"]["display_name"] == "Ann"
        channel: Any = await client.conversations_info(channel="C1")
        assert channel["channel"]["id"] == "C1"
        await client.api_call("assistant.threads.setStatus", json={"channel_id": "C1", "thread_ts": ts, "status": "x"})
        assert server.statuses == [("C1", ts, "x")]


@pytest.mark.parametrize(
    ("change", "call", "error"),
    [
        (lambda server: None, lambda client: client.chat_postMessage(channel="C9", text="x"), "channel_not_found"),
        (lambda server: None, lambda client: client.chat_postMessage(channel="C1", text=" "), "no_text"),
        (lambda server: None, lambda client: client.chat_update(channel="C1", ts="9.9", text="x"), "message_not_found"),
        (
            lambda server: None,
            lambda client: client.chat_postMessage(channel="C1", blocks=[{"type": "rich_text", "elements": []}]),
            "invalid_blocks",
        ),
        (lambda server: server.not_joined.add("C1"), lambda c: c.chat_postMessage(channel="C1", text="x"), "not_in"),
        (lambda server: setattr(server, "token_error", "token_revoked"), lambda c: c.auth_test(), "token_revoked"),
        (lambda server: server.missing_scopes.add("users:read"), lambda c: c.users_info(user="U1"), "missing_scope"),
        (lambda server: None, lambda client: client.apps_connections_open(app_token=BOT_TOKEN), "not_allowed_token"),
    ],
    ids=["channel", "no text", "message", "blocks", "not joined", "revoked", "scope", "token type"],
)
async def test_refusals_are_slack_s_own(
    change: Callable[[SlackServer], Any], call: Callable[[AsyncWebClient], Any], error: str
) -> None:
    async with SlackServer().running() as server:
        change(server)
        with pytest.raises(SlackApiError, match=error):
            await call(web(server))


async def test_whoever_calls_too_often_is_told_to_wait() -> None:
    async with SlackServer().running() as server:
        server.posts = (1, 60.0)
        await web(server).chat_postMessage(channel="C1", text="one")
        with pytest.raises(SlackApiError, match="ratelimited") as caught:
            await web(server).chat_postMessage(channel="C1", text="two")
        response: Any = caught.value.response
        assert response.status_code == 429 and 1 <= int(response.headers["Retry-After"]) <= 61


@pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=["aiohttp", "websockets"])
async def test_events_buttons_and_commands_come_over_a_socket(kind: Any) -> None:
    async with SlackServer().running() as server, listening(server, kind) as heard:
        await server.say("D1", "hello")
        button = {"type": "button", "text": {"type": "plain_text", "text": "Yes"}, "action_id": "1", "value": "y"}
        posted: Any = await web(server).chat_postMessage(
            channel="D1", text="?", blocks=[{"type": "actions", "elements": [button]}]
        )
        await server.press("D1", posted["ts"])
        await server.command("ask", "why")
        await server.until(lambda: len(heard) >= 4)
        assert sorted(name for name, _ in heard) == ["events_api", "events_api", "interactive", "slash_commands"]
        await server.until(lambda: not any(each.unacknowledged for each in server.connections))
        assert server.violations == [] and server.late == set()


@pytest.mark.parametrize("kind", ASYNC_CLIENTS, ids=["aiohttp", "websockets"])
async def test_a_socket_is_replaced_when_slack_asks_for_it(kind: Any) -> None:
    async with SlackServer().running() as server, listening(server, kind) as heard:
        await server.until_back(lambda socket: socket.disconnect("refresh_requested"))
        await server.say("D1", "after")
        await server.until(lambda: heard)
        assert heard[0][1]["event"]["text"] == "after" and server.violations == []


async def test_the_builtin_client_gets_along_too() -> None:
    async with SlackServer().running() as server:
        heard: list[str] = []
        client = BuiltinClient(app_token=APP_TOKEN, web_client=WebClient(BOT_TOKEN, base_url=server.url))

        def hear(client: Any, request: Any) -> None:
            heard.append(request.payload["event"]["text"])
            client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))

        client.socket_mode_request_listeners.append(hear)
        with anyio.fail_after(40):
            await anyio.to_thread.run_sync(client.connect)
            await server.until(lambda: server.on_line)
            await server.say("D1", "hello")
            await server.until(lambda: heard == ["hello"])
            await anyio.to_thread.run_sync(client.close)
        assert server.violations == []


def test_requests_are_signed_as_slack_signs_them() -> None:
    server, body = SlackServer(), b'{"type":"event_callback"}'
    headers = server.signed(body)
    verifier = SignatureVerifier(server.signing_secret)
    assert verifier.is_valid(body, headers["X-Slack-Request-Timestamp"], headers["X-Slack-Signature"])
