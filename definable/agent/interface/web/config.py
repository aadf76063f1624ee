"""What the web chat can be configured with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from definable.agent.interface.config import InterfaceConfig
from definable.errors import ConfigurationError

_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|(?:\*\.)?[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
"""https://www.w3.org/TR/CSP3/#framework-directive-source-list: scheme, host and port, without a path."""

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")

MIN_SECRET = 16
"""Characters."""


@dataclass(frozen=True, kw_only=True)
class WebConfig(InterfaceConfig):
    """Settings of the web chat.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    platform: str = "web"
    path: str = "/chat"
    """Of the page; all else of the chat is below it."""
    title: str = "Chat"
    """What the page and the widget's button are called."""
    greeting: str = ""
    """What an empty conversation shows; Markdown."""
    language: str = "en"
    """Of the page's own words, as BCP 47 names it; see `labels`."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    """The page's own words in place of the English ones, by the names of `docs/web-chat.md`."""
    allowed_origins: Sequence[str] = ()
    """Whose pages may show the chat in a frame: `"https://shop.example"`, `"https://*.shop.example"`."""
    secret: str | Sequence[str] | None = field(default=None, repr=False)
    """What signs the names of visitors, at least 16 characters; of several, the first. None makes one up: then nobody
    is known after a restart, nor on another replica."""
    max_message_length: int = 100_000
    max_input_length: int = 20_000
    """Characters of a message that comes in."""
    max_upload_bytes: int = 4 * 1024 * 1024
    """Of the images of one message, together."""
    max_images: int = 4
    """Of one message."""
    max_tabs: int = 8
    """Event streams of one user at once; one more ends the oldest."""
    max_chats: int = 2_000
    """Users whose chats are held in memory at once; of those beyond it, the ones that nobody watches are dropped, and
    come back from the session store."""
    max_file_bytes: int = 64 * 1024 * 1024
    """Of the files of all chats that are held for downloads; beyond it the oldest are dropped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _PATH.fullmatch(self.path):
            raise ConfigurationError(f"path={self.path!r}: one or several segments, such as '/chat'")
        origins = (self.allowed_origins,) if isinstance(self.allowed_origins, str) else tuple(self.allowed_origins)
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigurationError(f"allowed_origins: {origin!r} is no origin, such as 'https://shop.example'")
        object.__setattr__(self, "allowed_origins", tuple(each.lower() for each in origins))  # the class is frozen
        for secret in self.secrets:
            if not isinstance(secret, str) or len(secret) < MIN_SECRET:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"secret=...: at least {MIN_SECRET} characters of random text")
        for name in ("max_input_length", "max_upload_bytes", "max_tabs", "max_chats", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: at least 1")
        if self.max_images < 0:
            raise ConfigurationError(f"max_images={self.max_images!r}: 0 or more")
        if not re.fullmatch(r"[A-Za-z0-9-]{2,35}", self.language):
            raise ConfigurationError(f"language={self.language!r}: such as 'en' or 'pt-BR'")

    @property
    def secrets(self) -> Sequence[str]:
        """What signs the names of visitors; empty where one is to be made up."""
        if self.secret is None:
            return ()
        return (self.secret,) if isinstance(self.secret, str) else tuple(self.secret)
