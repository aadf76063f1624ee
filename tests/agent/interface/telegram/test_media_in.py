"""Photos, voice, audio, video and documents that come with a message."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Page, Refused, TelegramServer

from definable.agent import Agent
from definable.agent.interface import (
    InterfaceHook,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceSession,
    TelegramConfig,
)
from definable.agent.interface.telegram.attachments import fetch
from definable.agent.interface.telegram.client import bot_api
from definable.model import Image, OfflineModel

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024

SORRY = "Sorry, something went wrong. Please try again."


class Remembers(InterfaceHook):
    """Keeps the messages as the agent is about to get them."""

    def __init__(self) -> None:
        self.messages: list[InterfaceMessage] = []

    async def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> None:
        self.messages.append(message)


async def received(
    server: TelegramServer, settings: dict[str, Any] | None = None, **message: Any
) -> tuple[InterfaceMessage, Any]:
    """A message as hooks see it, and what the model was asked."""
    remembers, model = Remembers(), OfflineModel("seen")
    server.write(chat=1, **message)
    bot = bot_for(server, hooks=[remembers], **settings or {})
    async with Agent(model).running(bot, enable_server=False):
        await server.until(lambda server: server.sent())
    return remembers.messages[0], model.requests[-1].messages[-1]


async def test_a_photo_reaches_the_model_in_its_largest_size() -> None:
    async with TelegramServer(files={"small": b"s", "large": b"large"}).running() as server:
        sizes = [{"file_id": name, "file_unique_id": name, "width": 1, "height": 1} for name in ("small", "large")]
        message, asked = await received(server, photo=sizes, caption="what is it?")
        assert message.images == (Image(data=b"large", media_type="image/jpeg"),)
        assert (asked.content, asked.images) == ("what is it?", message.images)


async def test_an_image_sent_as_a_document_is_an_image() -> None:
    async with TelegramServer(files={"f": b"png"}).running() as server:
        message, asked = await received(server, document={"file_id": "f", "mime_type": "image/png"})
        assert (asked.images, message.files) == ((Image(data=b"png", media_type="image/png"),), ())


async def test_voice_audio_video_and_documents_are_fetched_and_the_model_is_told() -> None:
    async with TelegramServer(files={"v": b"voice", "a": b"audio", "m": b"movie", "d": b"%PDF"}).running() as server:
        message, asked = await received(
            server,
            text=None,
            voice={"file_id": "v", "duration": 3, "mime_type": "audio/ogg"},
            audio={"file_id": "a", "duration": 9, "file_name": "song.mp3"},
            video={"file_id": "m", "duration": 4},
            document={"file_id": "d", "file_name": "a.pdf", "mime_type": "application/pdf"},
        )
        assert [each.data for each in (*message.audio, *message.videos, *message.files)] == [
            b"voice",
            b"audio",
            b"movie",
            b"%PDF",
        ]
        assert asked.content.splitlines() == [
            "[audio: voice.ogg (audio/ogg, 3 s, 5 bytes)]",
            "[audio: song.mp3 (audio/mpeg, 9 s, 5 bytes)]",
            "[video: video.mp4 (video/mp4, 4 s, 5 bytes)]",
            "[file: a.pdf (application/pdf, 4 bytes)]",
        ]


@pytest.mark.parametrize("said", [25 * MIB, None])
async def test_a_file_beyond_twenty_megabytes_is_described_alone(said: int | None) -> None:
    async with TelegramServer(files={"f": b"x" * (25 * MIB)}).running() as server:
        message, asked = await received(server, document={"file_id": "f", "file_size": said, "file_name": "big.zip"})
        assert message.files[0].data is None
        assert "[file: big.zip (application/octet-stream" in asked.content


@pytest.mark.parametrize("failure", [Page(), Refused(429, "Too Many Requests", retry_after=3)])
async def test_a_passing_failure_to_tell_of_a_file_is_tried_again(failure: Any) -> None:
    async with TelegramServer(files={"f": b"x"}).running() as server:
        server.fail("getFile", failure, failure)
        message, _ = await received(server, document={"file_id": "f", "file_name": "a.zip"})
        assert message.files[0].data == b"x"


async def test_a_file_that_cannot_be_fetched_fails_the_message_alone() -> None:
    async with TelegramServer(files={"f": b"x"}).running() as server:
        server.fail("getFile", *[Page()] * 5)
        server.write("look", chat=1, document={"file_id": "f"})
        server.write("hello", chat=1)
        async with Agent("offline").running(bot_for(server), enable_server=False):
            await server.until(lambda server: len(server.sent()) == 2)
        assert server.sent() == [SORRY, "hello"]


async def test_an_image_too_large_for_a_bot_is_a_file_that_is_described() -> None:
    async with TelegramServer(files={"f": b"x"}).running() as server:
        message, asked = await received(
            server, document={"file_id": "f", "mime_type": "image/png", "file_size": 25 * MIB, "file_name": "map.png"}
        )
        assert (message.images, message.files[0].data, asked.images) == ((), None, ())
        assert "[file: map.png (image/png" in asked.content


async def test_a_file_that_telegram_gives_no_path_of_is_described_alone() -> None:
    async with TelegramServer(files={"f": b"x"}).running() as server:
        server.fail("getFile", Page(b'{"ok": true, "result": {"file_id": "f"}}', status=200))
        message, _ = await received(server, document={"file_id": "f", "file_name": "a.zip"})
        assert message.files[0].data is None


def told(path: str) -> Page:
    """getFile's answer with this path."""
    return Page(f'{{"ok": true, "result": {{"file_id": "f", "file_path": "{path}"}}}}'.encode(), status=200)


async def test_a_file_that_is_larger_than_telegram_said_is_described_alone() -> None:
    async with TelegramServer(files={"huge": b"x" * (25 * MIB)}).running() as server:
        server.fail("getFile", told("huge"))
        message, _ = await received(server, document={"file_id": "f", "file_name": "a.zip", "file_size": 1})
        assert message.files[0].data is None


async def test_a_file_that_is_gone_fails_the_message_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.fail("getFile", told("gone"))
        server.write("look", chat=1, document={"file_id": "f"})
        async with Agent("offline").running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
        assert server.sent() == [SORRY]
    assert "a file could not be fetched: Telegram says 404" in caplog.text and server.token not in caplog.text


async def test_a_file_that_cannot_be_decoded_fails_the_message_and_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TelegramServer(files={"f": b"no gzip" * MIB}, file_encoding="gzip").running() as server:
        server.write("look", chat=1, document={"file_id": "f"})
        async with Agent("offline").running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
        assert server.sent() == [SORRY]
    assert "a file could not be fetched: DecodingError" in caplog.text
    gc.collect()  # trio says there what was not closed


async def test_a_file_that_telegram_does_not_know_fails_the_message() -> None:
    async with TelegramServer().running() as server:
        server.write("look", chat=1, document={"file_id": "unknown"})
        async with Agent("offline").running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
        assert (server.sent(), server.refusals) == ([SORRY], ["getFile: invalid file_id"])


async def test_nothing_is_fetched_for_strangers() -> None:
    async with TelegramServer(files={"f": b"x"}).running() as server:
        server.fail("getFile", Refused(400, "Bad Request: must not be asked"))
        server.write("look", chat=1, document={"file_id": "f"})
        server.write("hello", chat=2)
        bot = bot_for(server, allowed_user_ids=[2])
        async with Agent("offline").running(bot, enable_server=False):
            await server.until(lambda server: server.sent())
        assert not [call for call in server.calls if call.method == "getFile"]


# --- a server of one's own, with --local

DOCUMENT = {"file_id": "f", "file_name": "a.txt", "mime_type": "application/zip"}


async def test_a_server_of_ones_own_puts_files_on_the_disk(tmp_path: Path) -> None:
    async with TelegramServer(files={"f": b"x" * (21 * MIB)}, local_directory=str(tmp_path)).running() as server:
        message, _ = await received(server, {"max_file_size": 50 * MIB}, document=DOCUMENT)
        assert message.files[0].data == server.files["f"]


async def test_a_file_on_the_disk_that_is_too_large_is_described_alone(tmp_path: Path) -> None:
    async with TelegramServer(files={"f": b"x" * (21 * MIB)}, local_directory=str(tmp_path)).running() as server:
        message, _ = await received(server, document=DOCUMENT)
        assert message.files[0].data is None
        assert message.notes == ("a.txt was not read: files of more than 20 MB cannot be",)


async def test_only_files_of_the_allowed_directory_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "secret").write_text("not for models")
    outside = str(tmp_path / "files" / ".." / "secret")
    async with TelegramServer(files={"f": b"x"}, local_directory=str(tmp_path / "files")).running() as server:
        message, _ = await received(server, {"local_files": str(tmp_path / "files")}, document=DOCUMENT)
        assert message.files[0].data == b"x"
        server.calls.clear()
        server.fail("getFile", told(outside))
        server.write(chat=1, document=DOCUMENT)
        bot = bot_for(server, local_files=str(tmp_path / "files"))
        async with Agent("offline").running(bot, enable_server=False):
            await server.until(lambda server: len(server.shown(1)) == 2)
        assert server.shown(1)[-1] == SORRY
    assert f"secret is not in local_files='{tmp_path / 'files'}'" in caplog.text


async def test_a_file_that_cannot_be_read_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.fail("getFile", told(f"/nowhere/{server.token}/documents/f"))
        server.write(chat=1, document=DOCUMENT)
        async with Agent("offline").running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
        assert server.sent() == [SORRY] and server.token not in caplog.text
    assert "/nowhere/<token>/documents/f, which cannot be read here (No such file or directory)" in caplog.text


async def test_of_telegram_s_own_server_no_file_of_this_machine_is_read() -> None:
    config = TelegramConfig(bot_token=TelegramServer().token)
    assert not config.has_own_server
    async with TelegramServer().running() as server, bot_api(config.with_updates(base_url=server.url)) as api:
        api.config = config
        server.fail("getFile", told("/etc/hostname"))
        with pytest.raises(InterfaceMessageError, match="Telegram's own server names a file of this machine"):
            await fetch(api, "f")


# --- what is replied to


def replied_to(**fields: Any) -> dict[str, Any]:
    chat = {"id": 1, "type": "private"}
    author = {"id": 1, "is_bot": False, "first_name": "U"}
    return {"reply_to_message": {"message_id": 3, "date": 1, "chat": chat, "from": author} | fields}


async def test_a_photo_that_is_replied_to_is_fetched() -> None:
    async with TelegramServer(files={"pic": b"png", "v": b"voice"}).running() as server:
        fields = replied_to(photo=[{"file_id": "pic"}], voice={"file_id": "v", "duration": 3})
        message, _ = await received(server, text="what is in this?", **fields)
        (context,) = message.context
        assert context.images == (Image(data=b"png", media_type="image/jpeg"),)
        assert [each.data for each in context.files] == [b"voice"] and message.images == ()


async def test_what_is_replied_to_and_cannot_be_fetched_is_described_alone() -> None:
    async with TelegramServer().running() as server:
        message, _ = await received(server, text="what is in this?", **replied_to(photo=[{"file_id": "gone"}]))
        assert (message.context[0].images, message.context[0].files[0].data) == ((), None)
