"""What a response becomes in a chat: text with its buttons first, then files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mimetypes import guess_extension
from typing import Any

from definable.agent.interface.errors import InterfaceConnectionError, InterfaceError, InterfaceMessageError
from definable.agent.interface.message import Button, InterfaceMessage, InterfaceResponse, Media
from definable.agent.interface.streamed_reply import parts_of
from definable.concurrency.isolation import error_text
from definable.concurrency.logs import logger_named

from .blocks import Block, button_blocks, can_link, escaped, fallback, image_block, plain_block, rich_text
from .client import ONCE, SlackAPI, SlackRefusal
from .config import SlackConfig

logger: logging.Logger = logger_named(__name__)

BAD_BLOCKS = frozenset({"invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long"})

NO_THREAD = frozenset({"cannot_reply_to_message", "thread_not_found", "invalid_thread_ts", "message_not_found"})
"""Codes: the thread is gone, or what it hangs on."""

SILENT: dict[str, Any] = {"parse": "none", "unfurl_links": False, "unfurl_media": False}
"""What a model writes links no names, and has nobody fetch the pages whose addresses it wrote."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends responses."""

    api: SlackAPI
    config: SlackConfig

    async def send(
        self, message: InterfaceMessage, response: InterfaceResponse, streamed: tuple[str, str] | None = None
    ) -> None:
        """Send a response of any length.

        Args:
            message: What is answered.
            response: Of any length.
            streamed: The `ts` and the text of the message under which buttons without a text belong.

        Raises:
            InterfaceError: Its text was not sent; or its files were not, where it has nothing else.
        """
        for part in parts_of(response, self.config.max_message_length):
            text = part.content if part.content and part.content.strip() else None
            if text is None and part.buttons and streamed is not None:
                await self._put_under(message, streamed, part.buttons)
            elif text is not None or part.buttons:
                await self._post(message, text, part.buttons)
            try:
                await self._attach(message, part)
            except InterfaceError as error:
                if text is None:
                    raise
                logger.warning("slack: the files of a reply could not be sent: %s", error_text(error))

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        """Post a text that will be edited; returns its `ts`. None where a slash command is answered."""
        if message.metadata.get("response_url"):
            return None
        return await self._post(message, text, ())

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        """Give a message another text, once."""
        place: dict[str, Any] = {"channel": message.platform_chat_id, "ts": posted, "parse": "none"}
        try:
            await self._update(place, text, [rich_text(text)])
        except SlackRefusal as refusal:
            if refusal.code not in BAD_BLOCKS:
                raise
            await self._update(place, text, [plain_block(text)])

    async def _update(self, place: dict[str, Any], text: str, blocks: Sequence[Block]) -> None:
        await self.api.call("chat.update", backoff=ONCE, **place, text=fallback(text), blocks=blocks)

    async def _put_under(
        self, message: InterfaceMessage, streamed: tuple[str, str], buttons: Sequence[Sequence[Button]]
    ) -> None:
        """Put buttons under the reply that was shown while it was written; below it, where that cannot be changed."""
        ts, text = streamed
        place: dict[str, Any] = {"channel": message.platform_chat_id, "ts": ts, "parse": "none"}
        blocks = [rich_text(text), *button_blocks(buttons)]
        try:
            await self.api.call("chat.update", **place, text=fallback(text), blocks=blocks)
        except InterfaceMessageError:
            await self._post(message, None, buttons)

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        """Delete a message, once."""
        await self.api.call("chat.delete", backoff=ONCE, channel=message.platform_chat_id, ts=posted)

    async def _post(
        self, message: InterfaceMessage, text: str | None, buttons: Sequence[Sequence[Button]]
    ) -> str | None:
        shown = text or " · ".join(button.text for row in buttons for button in row)
        blocks = [*([rich_text(text)] if text else []), *button_blocks(buttons)]
        try:
            return await self._create(message, fallback(shown), blocks)
        except SlackRefusal as refusal:
            if refusal.code not in BAD_BLOCKS:
                raise
            logger.warning("slack: a reply is sent unformatted: %s", refusal)
        return await self._create(message, escaped(shown), ())

    async def _create(self, message: InterfaceMessage, text: str, blocks: Sequence[Block]) -> str | None:
        """Post a message where another was written; in its channel, where its thread is gone."""
        body: dict[str, Any] = {"text": text, **({"blocks": blocks} if blocks else {})}
        url = message.metadata.get("response_url")
        if isinstance(url, str):
            await self.api.respond(url, {"response_type": "ephemeral", **body})
            return None
        channel, thread = message.platform_chat_id, message.thread_id
        try:
            answer = await self.api.call("chat.postMessage", channel=channel, thread_ts=thread, **body, **SILENT)
        except SlackRefusal as refusal:
            if thread is None or refusal.code not in NO_THREAD:
                raise
            logger.warning("slack: thread %s of %s is gone, the answer goes into the channel", thread, channel)
            answer = await self.api.call("chat.postMessage", channel=channel, **body, **SILENT)
        ts = answer.get("ts")
        if not isinstance(ts, str):
            raise InterfaceConnectionError("chat.postMessage: Slack answered with something else than a message")
        return ts

    # --- files

    async def _attach(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        media = list(_media_of(response))
        for medium in media:
            if medium.data is None and medium.url is not None:
                await self._show_address(message, medium, medium.url)
        files = [await self._uploaded(each, each.data) for each in media if each.data]
        if files:
            place: dict[str, Any] = {"channel_id": message.platform_chat_id, "thread_ts": message.thread_id}
            await self.api.call("files.completeUploadExternal", files=files, **place)

    async def _show_address(self, message: InterfaceMessage, medium: Media, url: str) -> None:
        name = medium.filename or url
        if medium.media_type.startswith("image/") and can_link(url):
            try:
                await self._create(message, fallback(name), [image_block(url, name[:2000])])
                return
            except SlackRefusal as refusal:
                if refusal.code not in BAD_BLOCKS:
                    raise
        await self._post(message, url if medium.filename is None else f"{medium.filename}: {url}", ())

    async def _uploaded(self, medium: Media, data: bytes) -> dict[str, str]:
        """Send a file's content to Slack (https://docs.slack.dev/messaging/working-with-files)."""
        name = medium.filename or f"file{guess_extension(medium.media_type) or ''}"
        place = await self.api.call("files.getUploadURLExternal", filename=name, length=len(data))
        id, url = place.get("file_id"), place.get("upload_url")
        if not isinstance(id, str) or not isinstance(url, str):
            raise InterfaceConnectionError(
                "files.getUploadURLExternal: Slack answered with something else than a place"
            )
        await self.api.upload(url, data)
        return {"id": id, "title": name}


def _media_of(response: InterfaceResponse) -> Iterator[Media]:
    for number, image in enumerate(response.images, 1):
        name = f"image{number}{guess_extension(image.media_type) or ''}"
        if image.data is not None:
            yield Media(image.data, media_type=image.media_type, filename=name)
        elif image.url is not None:
            yield Media(url=image.url, media_type="image/*")
    for medium in (*response.audio, *response.videos, *response.files):
        if medium.data is not None and not medium.data:
            raise InterfaceMessageError(f"{medium.filename or 'a file'} is empty: Slack takes none of 0 bytes")
        yield medium
