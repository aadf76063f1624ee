"""Messaging interfaces: chat platforms in front of the agent.

```
base.py              BaseInterface: what a platform implements, what the supervisor calls
config.py            what every interface can be configured with
message.py message.py  what travels
inbox.py             accepted messages: a chat in order, chats side by side
pipeline.py          one message's way: hooks, auth, rate limit, identity, session, run, send
streamed_reply.py    ... shown while the model writes it; streamed_reply.py: what is shown when
hook.py              InterfaceHook; hooks.py, hooks.py
session.py           a user's conversation in a chat; session_manager.py: which are open
conversation.py      ... kept in step with the agent's session store
identity.py          one person on several platforms; identity.py
rate_limit.py token_bucket.py splitting.py message.py   pure
telegram/ discord/   the platforms
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .base import BaseInterface
    from .config import InterfaceConfig
    from .conversation import InterfaceSession
    from .discord import DiscordConfig, DiscordInterface
    from .errors import (
        InterfaceAuthenticationError,
        InterfaceConnectionError,
        InterfaceError,
        InterfaceMessageError,
        InterfaceRateLimitError,
    )
    from .hooks import AllowlistHook, InterfaceHook, LoggingHook
    from .identity import IdentityResolver, PlatformIdentity, SQLiteIdentityResolver
    from .message import InterfaceMessage, InterfaceResponse, Media
    from .session_manager import SessionManager
    from .telegram import TelegramConfig, TelegramInterface

__all__ = [
    "BaseInterface",
    "InterfaceConfig",
    "InterfaceMessage",
    "InterfaceResponse",
    "Media",
    "InterfaceSession",
    "SessionManager",
    "InterfaceHook",
    "LoggingHook",
    "AllowlistHook",
    "IdentityResolver",
    "PlatformIdentity",
    "SQLiteIdentityResolver",
    "TelegramInterface",
    "TelegramConfig",
    "DiscordInterface",
    "DiscordConfig",
    "InterfaceError",
    "InterfaceAuthenticationError",
    "InterfaceConnectionError",
    "InterfaceMessageError",
    "InterfaceRateLimitError",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "BaseInterface": ".base",
        "InterfaceConfig": ".config",
        "InterfaceMessage": ".message",
        "InterfaceResponse": ".message",
        "Media": ".message",
        "InterfaceSession": ".conversation",
        "SessionManager": ".session_manager",
        "InterfaceHook": ".hooks",
        "LoggingHook": ".hooks",
        "AllowlistHook": ".hooks",
        "IdentityResolver": ".identity",
        "PlatformIdentity": ".identity",
        "SQLiteIdentityResolver": ".identity",
        "TelegramInterface": ".telegram",
        "TelegramConfig": ".telegram",
        "DiscordInterface": ".discord",
        "DiscordConfig": ".discord",
        "InterfaceError": ".errors",
        "InterfaceAuthenticationError": ".errors",
        "InterfaceConnectionError": ".errors",
        "InterfaceMessageError": ".errors",
        "InterfaceRateLimitError": ".errors",
    },
)
