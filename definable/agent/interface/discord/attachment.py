"""Images that came with a message, fetched once its user was let in."""

from __future__ import annotations

from dataclasses import replace

from definable.agent.interface.media import Media
from definable.agent.interface.message import InterfaceMessage
from definable.model.message import Image

from .rest import DiscordRest


async def with_images(message: InterfaceMessage, rest: DiscordRest) -> InterfaceMessage:
    """A message with the content of its images; one that is too large is a file.

    Discord's addresses are good for a day, and until the message is deleted (Discord's "Reference", Signed Attachment
    CDN URLs); a provider that is told an address asks there again whenever the conversation goes on.

    Raises:
        InterfaceError: An image could not be fetched.
    """
    images: list[Image] = []
    files: list[Media] = []
    for image in message.images:
        data = image.data if image.url is None else await rest.fetch(image.url)
        if data is None:
            files.append(Media(url=image.url, media_type=image.media_type))
        else:
            images.append(Image(data=data, media_type=image.media_type))
    return replace(message, images=tuple(images), files=(*message.files, *files)) if message.images else message
