"""Photos, voice, audio, video and documents that come with a message."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Page, Refused, TelegramServer

from definable.agent import Agent
from definable.agent.interface import InterfaceHook, InterfaceMessage, InterfaceSession
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


async def received(server: TelegramServer, **message: Any) -> tuple[InterfaceMessage, Any]:
    """A message as hooks see it, and what the model was asked."""
    remembers, model = Remembers(), OfflineModel("seen")
    server.write(chat=1, **message)
    async with Agent(model).running(bot_for(server, hooks=[remembers]), enable_server=False):
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
        assert asked.content.startswith("[file: big.zip (application/octet-stream")


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
        assert asked.content.startswith("[file: map.png (image/png")


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
