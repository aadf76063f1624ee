"""Known users of messaging platforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from definable.errors import ConfigurationError

from .base import AuthContext, AuthRequest, platform_identity

Ids: TypeAlias = str | int | Iterable[str | int]
"""One id or several; platforms with numeric ids may be given numbers."""


class AllowlistAuth:
    """Accepts the listed users of messaging platforms; nobody over HTTP, where a name proves nothing.

    One id may belong to different people on different platforms: name the platforms when more than one is served.
    What is given restricts: a user must be listed, and write in a listed chat, on a listed platform. An empty list
    lets nobody in. It speaks on all messaging platforms, also where `platforms` names others: their users are refused.

    Args:
        user_ids: The platform's ids of the users.
        chat_ids: The only chats in which they are answered; None for any chat.
        platforms: The only platforms, such as `"telegram"`; None for all but HTTP.

    Raises:
        ConfigurationError: An id is empty or not an id, or HTTP is among the platforms.

    Example:
        >>> agent.auth = AllowlistAuth({"123456"}, platforms={"telegram"})  # doctest: +SKIP
    """

    immediate = True

    def __init__(
        self, user_ids: Ids, chat_ids: Ids | None = None, platforms: str | Iterable[str] | None = None
    ) -> None:
        self.user_ids: frozenset[str] = id_set("user_ids", user_ids)
        self.chat_ids: frozenset[str] | None = None if chat_ids is None else id_set("chat_ids", chat_ids)
        self.platforms: frozenset[str] | None = None if platforms is None else id_set("platforms", platforms)
        if self.platforms is not None and "http" in self.platforms:
            raise ConfigurationError("AllowlistAuth(platforms=...): messaging platforms only, not 'http'")

    def __repr__(self) -> str:
        return f"AllowlistAuth(<{len(self.user_ids)} users>)"

    def speaks_on(self, platform: str) -> bool:
        """Everywhere but over HTTP."""
        return platform != "http"

    def explain(self, request: AuthRequest) -> str:
        """Why a user is refused, for the log."""
        if request.user_id not in self.user_ids:
            return "the user is not listed"
        return "the chat is not listed" if self.chat_ids is not None else f"not on {request.platform}"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The sender of a message when it is listed, as `telegram:42`; None otherwise."""
        if request.platform == "http" or request.user_id is None or request.user_id not in self.user_ids:
            return None
        if self.chat_ids is not None and request.chat_id not in self.chat_ids:
            return None
        if self.platforms is not None and request.platform not in self.platforms:
            return None
        user_id = platform_identity(request.platform, request.user_id)
        return AuthContext(user_id, {"platform": request.platform, "auth_method": "allowlist"})


def id_set(argument: str, ids: Ids) -> frozenset[str]:
    """The ids as strings, as messages carry them."""
    if not isinstance(ids, str | int | Iterable) or isinstance(ids, bytes | bytearray | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"AllowlistAuth({argument}={ids!r}): an id or several")
    several = [ids] if isinstance(ids, str | int) else list(ids)
    for each in several:
        if isinstance(each, bool) or not isinstance(each, str | int) or not str(each).strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"AllowlistAuth({argument}=...): {each!r} is not an id")
    return frozenset(map(str, several))
