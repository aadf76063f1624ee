"""What travels between a platform and the agent: the same for every platform."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import Any

from definable.frozen import frozen
from definable.model.message import Image

from .media import Media


@frozen
class InterfaceMessage:
    """A message that came in, normalised."""

    platform: str
    platform_user_id: str
    platform_chat_id: str
    platform_message_id: str
    """Names the message within its chat: one that comes in twice is answered once. Empty when it has no name."""
    text: str | None = None
    username: str | None = None
    images: tuple[Image, ...] = ()
    """The model sees them."""
    audio: tuple[Media, ...] = ()
    videos: tuple[Media, ...] = ()
    files: tuple[Media, ...] = ()
    reply_to_message_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The platform's own; what a custom interface needs to answer."""
    created_at: float = field(default_factory=time.time)
    """Unix seconds."""


@frozen
class InterfaceResponse:
    """What goes back."""

    content: str | None = None
    images: tuple[Image, ...] = ()
    audio: tuple[Media, ...] = ()
    videos: tuple[Media, ...] = ()
    files: tuple[Media, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The platform's own; see the interface."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        has_media = self.images or self.audio or self.videos or self.files
        return not (has_media or (self.content and self.content.strip()))


class MessageEnd(Enum):
    """How an accepted message ended."""

    HANDLED = "handled"
    """Answered, or dropped by a hook or a rate limit."""
    REFUSED = "refused"
    """Its user is not let in."""
    FAILED = "failed"
    """Not answered because of an error, which is logged."""
