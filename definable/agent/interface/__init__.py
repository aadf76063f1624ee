"""Messaging interfaces: chat platforms in front of the agent.

```
base.py             BaseInterface: what a platform implements, what the supervisor calls
config.py           what every interface can be configured with
message.py          what travels between platform and agent, and what a model reads of it; message_json.py as JSON
admission.py        who may have a message answered: hooks, auth, rate limit
pipeline.py         one message's way: admission, identity, session, run, send
transcriber.py      voice messages as text
streamed_reply.py   a reply that is shown while the model writes it
sessions.py         a user's conversation in a chat; chat_sessions.py has it in step with the agent's session store
hooks.py            InterfaceHook and those that come along
identity.py         one person on several platforms
http_client.py      retries, downloads, proxies and tokens, for every platform with an HTTP API
websocket.py        a WebSocket client on either backend
markdown.py rendering.py rich_text.py   a model's Markdown as text with entities, for platforms that show those
rate_limit.py splitting.py   pure
errors.py           what can go wrong, and what is tried again
telegram/ discord/ slack/ web/  the platforms: protocol and formatting
```

It knows nothing of the runtime, whose supervisor runs interfaces. `docs/extending.md` shows how to write one.
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .base import Accept, BaseInterface
    from .config import InterfaceConfig, Texts
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
    from .message import Button, InterfaceMessage, InterfaceResponse, Media, QuotedMessage
    from .sessions import InterfaceSession, SessionManager
    from .slack import SlackConfig, SlackInterface
    from .telegram import TelegramConfig, TelegramInterface
    from .transcriber import OpenAITranscriber
    from .web import WebConfig, WebInterface

__all__ = [
    "BaseInterface",
    "Accept",
    "InterfaceConfig",
    "Texts",
    "InterfaceMessage",
    "InterfaceResponse",
    "QuotedMessage",
    "Media",
    "Button",
    "OpenAITranscriber",
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
    "SlackInterface",
    "SlackConfig",
    "WebInterface",
    "WebConfig",
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
        "Accept": ".base",
        "InterfaceConfig": ".config",
        "Texts": ".config",
        "QuotedMessage": ".message",
        "Button": ".message",
        "OpenAITranscriber": ".transcriber",
        "InterfaceMessage": ".message",
        "InterfaceResponse": ".message",
        "Media": ".message",
        "InterfaceSession": ".sessions",
        "SessionManager": ".sessions",
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
        "SlackInterface": ".slack",
        "SlackConfig": ".slack",
        "WebInterface": ".web",
        "WebConfig": ".web",
        "InterfaceError": ".errors",
        "InterfaceAuthenticationError": ".errors",
        "InterfaceConnectionError": ".errors",
        "InterfaceMessageError": ".errors",
        "InterfaceRateLimitError": ".errors",
    },
)
