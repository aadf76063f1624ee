"""Who may have a message answered: hooks, the auth provider and the rate limit are asked, in this order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Protocol

import anyio

from definable.agent.auth.base import (
    AuthContext,
    AuthProvider,
    AuthRequest,
    RefusalLog,
    authenticate,
    platform_identity,
    speaks_on,
    why_refused,
)
from definable.concurrency.logs import logger_named

from .base import BaseInterface
from .errors import InterfaceRateLimitError
from .hooks import HookChain
from .message import InterfaceMessage, MessageEnd
from .rate_limit import UserRateLimit

logger: logging.Logger = logger_named(__name__)


class Say(Protocol):
    """Sends one of the service's own texts."""

    async def __call__(self, message: InterfaceMessage, text: str, **values: object) -> None: ...


class Admission:
    """Lets messages in.

    Args:
        interface: Its hooks and auth are looked up at every message.
        auth: The agent's provider, asked at every message.
        refusals: Where it is noted who is not let in.
        say: Tells a user that there were too many messages.
    """

    def __init__(
        self, interface: BaseInterface, auth: Callable[[], AuthProvider | None], refusals: RefusalLog, say: Say
    ) -> None:
        self._interface = interface
        self._auth = auth
        self._refusals = refusals
        self._say = say
        self._rate_limit = UserRateLimit(interface.config.rate_limit_messages_per_minute)

    async def ask(self, message: InterfaceMessage) -> tuple[MessageEnd | None, AuthContext | None]:
        """Ask whether a message is let in.

        Returns:
            How it ends, None where it is let in; and who its user is.
        """
        if not await HookChain(self._interface.hooks).let_in(message):
            return MessageEnd.HANDLED, None
        own = False if self._interface.has_http_users else self._interface.auth
        provider = guard_of(own, self._auth(), message.platform)
        asked = auth_request(message)
        caller = None if provider is None else await authenticate(provider, asked)
        if provider is not None and caller is None:
            what, who = f"a message to {self._interface.name}", f"user {identity_of(message)!r}"
            self._refusals.refused(what, who, lambda: why_refused(provider, asked))
            return MessageEnd.REFUSED, None
        return None if await self._is_within_rate(message) else MessageEnd.HANDLED, caller

    async def _is_within_rate(self, message: InterfaceMessage) -> bool:
        refusal = self._rate_limit.take(identity_of(message), anyio.current_time())
        if refusal is None:
            return True
        if refusal.is_first:  # a flood is answered and logged once, not at every message
            wait = max(1, round(refusal.retry_after))
            error = InterfaceRateLimitError(f"too many messages: wait {wait} s", retry_after=refusal.retry_after)
            logger.warning("%s: user %s sent %s", message.platform, message.platform_user_id, error)
            await HookChain(self._interface.hooks).tell_error(error, message)
            await self._say(message, self._interface.config.texts.too_many_messages, seconds=wait)
        return False


def guard_of(
    own: AuthProvider | Literal[False] | None, agents: AuthProvider | None, platform: str
) -> AuthProvider | None:
    """Who decides about the users of a chat; None: everybody is let in.

    Args:
        own: The interface's `auth`.
        agents: The agent's provider, which guards the chat only if it speaks on its platform.
        platform: The chat's.
    """
    if isinstance(own, bool):
        return None
    if own is not None:
        return own
    return agents if agents is not None and speaks_on(agents, platform) else None


def identity_of(message: InterfaceMessage) -> str:
    """Who a platform's user is where no resolver knows better: no other platform's, and no user of the web."""
    return platform_identity(message.platform, message.platform_user_id)


def former_identity_of(message: InterfaceMessage, user_id: str) -> str | None:
    """What a conversation of this user may be owned by in a store: earlier versions left the platform out."""
    return message.platform_user_id if user_id == identity_of(message) else None


def auth_request(message: InterfaceMessage) -> AuthRequest:
    """What an auth provider may look at."""
    return AuthRequest(
        platform=message.platform,
        user_id=message.platform_user_id,
        username=message.username,
        chat_id=message.platform_chat_id,
        metadata=message.metadata,
    )
