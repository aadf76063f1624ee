"""Messaging interfaces: chat platforms in front of the agent.

```
base.py              BaseInterface: what a platform implements, what the supervisor calls
config.py            what every interface can be configured with
message.py media.py  what travels
inbox.py             accepted messages: a chat in order, chats side by side
pipeline.py          one message's way: hooks, auth, rate limit, identity, session, run, send
streamed_reply.py    ... shown while the model writes it; reply_draft.py: what is shown when
hook.py              InterfaceHook; logging_hook.py, allowlist_hook.py
session.py           a user's conversation in a chat; session_manager.py: which are open
conversation.py      ... kept in step with the agent's session store
identity.py          one person on several platforms; sqlite_identity.py
rate_limit.py token_bucket.py splitting.py prompt.py   pure
telegram/ discord/   the platforms
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .allowlist_hook import AllowlistHook
    from .base import BaseInterface
    from .config import InterfaceConfig
    from .discord import DiscordConfig, DiscordInterface
    from .errors import (
        InterfaceAuthenticationError,
        InterfaceConnectionError,
        InterfaceError,
        InterfaceMessageError,
        InterfaceRateLimitError,
    )
    from .hook import InterfaceHook
    from .identity import IdentityResolver, PlatformIdentity
    from .logging_hook import LoggingHook
    from .media import Media
    from .message import InterfaceMessage, InterfaceResponse
    from .session import InterfaceSession
    from .session_manager import SessionManager
    from .sqlite_identity import SQLiteIdentityResolver
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
        "Media": ".media",
        "InterfaceSession": ".session",
        "SessionManager": ".session_manager",
        "InterfaceHook": ".hook",
        "LoggingHook": ".logging_hook",
        "AllowlistHook": ".allowlist_hook",
        "IdentityResolver": ".identity",
        "PlatformIdentity": ".identity",
        "SQLiteIdentityResolver": ".sqlite_identity",
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
