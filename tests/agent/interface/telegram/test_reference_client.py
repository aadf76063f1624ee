"""The loopback Bot API is what it says: python-telegram-bot, which knows nothing of us, gets along with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from loopback.telegram_server import Fault, Refused, TelegramServer

telegram: Any = pytest.importorskip("telegram", reason="python-telegram-bot is not installed")

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the reference client knows no other


@asynccontextmanager
async def reference(server: TelegramServer, token: str | None = None) -> AsyncIterator[Any]:
    bot = telegram.Bot(token or server.token, base_url=f"{server.url}/bot", base_file_url=f"{server.url}/file/bot")
    async with bot:
        yield bot


async def test_updates_are_taken_and_acknowledged() -> None:
    async with TelegramServer().running() as server, reference(server) as bot:
        server.write("one", chat=1)
        server.write("two", chat=-2, user=3)
        updates = await bot.get_updates(timeout=0, allowed_updates=["message"])
        assert [update.message.text for update in updates] == ["one", "two"]
        assert [update.effective_user.id for update in updates] == [1, 3]
        assert await bot.get_updates(offset=updates[-1].update_id + 1, timeout=0) == ()
        assert server.updates == []


async def test_messages_and_media_are_sent() -> None:
    async with TelegramServer(limits_chats=False).running() as server, reference(server) as bot:
        sent = await bot.send_message(1, "hello", entities=[telegram.MessageEntity("bold", 0, 5)])
        assert (sent.text, server.sent(1)) == ("hello", ["hello"])
        await bot.send_photo(1, b"png", filename="a.png")
        await bot.send_chat_action(1, "typing")
        assert server.sent(1, "sendPhoto")[0]["photo"][1] == b"png"
        assert server.refusals == []


async def test_messages_are_edited_and_deleted() -> None:
    async with TelegramServer(limits_chats=False).running() as server, reference(server) as bot:
        theirs = server.write("theirs", chat=1)
        sent = await bot.send_message(1, "one")
        await bot.edit_message_text("two", 1, sent.message_id)
        assert server.shown(1) == ["two"]
        for number, text, why in (
            (sent.message_id, "two", "not modified"),
            (99, "x", "not found"),
            (theirs, "x", "can't"),
        ):
            with pytest.raises(telegram.error.BadRequest, match=why):
                await bot.edit_message_text(text, 1, number)
        assert await bot.delete_message(1, sent.message_id)
        assert server.shown(1) == []


async def test_whoever_writes_too_fast_is_told_to_wait() -> None:
    async with TelegramServer().running() as server, reference(server) as bot:
        await bot.send_message(1, "one")
        with pytest.raises(telegram.error.RetryAfter):
            await bot.send_message(1, "two")
        assert server.violations == ["sendMessage: chat 1 was written to again too soon"]


async def test_files_are_fetched() -> None:
    async with TelegramServer(files={"a.txt": b"content"}).running() as server, reference(server) as bot:
        file = await bot.get_file("a.txt")
        assert bytes(await file.download_as_bytearray()) == b"content"


async def test_failures_are_the_reference_client_s_own() -> None:
    async with TelegramServer().running() as server, reference(server) as bot:
        server.fail("sendMessage", Refused(429, "Too Many Requests: retry after 7", retry_after=7))
        with pytest.raises(telegram.error.RetryAfter):
            await bot.send_message(1, "hello")
        server.fail("sendMessage", Refused(400, "Bad Request: upgraded", moved_to=-1007))
        with pytest.raises(telegram.error.ChatMigrated):
            await bot.send_message(1, "hello")
        server.fail("sendMessage", Refused(403, "Forbidden: bot was blocked by the user"))
        with pytest.raises(telegram.error.Forbidden):
            await bot.send_message(1, "hello")
        server.fail("sendMessage", Fault("drop"))
        with pytest.raises(telegram.error.NetworkError):
            await bot.send_message(1, "hello")
        with pytest.raises(telegram.error.BadRequest, match="too long"):
            await bot.send_message(1, "x" * 4097)


async def test_a_wrong_token_is_refused() -> None:
    async with TelegramServer().running() as server:
        with pytest.raises(telegram.error.InvalidToken):
            async with reference(server, "1:wrong"):
                raise AssertionError


async def test_the_older_of_two_pollers_is_told_of_the_conflict() -> None:
    conflicts: list[Exception] = []

    async def poll(bot: Any) -> None:
        with pytest.raises(telegram.error.Conflict) as caught:
            await bot.get_updates(timeout=20)
        conflicts.append(caught.value)

    with anyio.fail_after(20):
        async with TelegramServer().running() as server, reference(server) as bot, reference(server) as other:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(poll, bot)
                await server.until(lambda server: any(call.method == "getUpdates" for call in server.calls))
                await anyio.sleep(0.1)
                await other.get_updates(timeout=0)
    assert conflicts
