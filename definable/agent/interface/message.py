"""What travels between a platform and the agent: the same for every platform."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class InterfaceMessage:
    """A message that came in, normalised."""

    platform: str
    platform_user_id: str
    platform_chat_id: str
    platform_message_id: str
    text: str | None = None
    username: str | None = None
    images: tuple[Any, ...] = ()
    audio: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()
    files: tuple[Any, ...] = ()
    reply_to_message_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    created_at: float = field(default_factory=time.time)
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class InterfaceResponse:
    """What goes back."""

    content: str | None = None
    images: tuple[Any, ...] = ()
    audio: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()
    files: tuple[Any, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
