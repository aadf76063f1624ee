"""The `AuthProvider` protocol, what it is asked and what it answers.

Called by the HTTP endpoints and by the messaging interfaces; a provider that raises denies.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

from definable.frozen import frozen, made_when_asked_for

CHAT_NAMESPACE = "chat~"
"""What the ids of chats' sessions begin with, unless their user is somebody whom other platforms know as well."""

NAMESPACED = re.compile("chat~|(?:service|user|sender)~[^~]*~")
"""What the ids of callers' and chats' sessions begin with: a token's `sub` may be any text, also that of a key, of a
sender or of a chat's user.
"""


@frozen
class AuthRequest:
    """What a provider may look at.

    Example:
        A secret in the URL, as senders have it that can sign nothing:

            class Token:
                platforms = frozenset({"http"})

                def authenticate(self, request: AuthRequest) -> AuthContext | None:
                    fits = hmac.compare_digest(request.query.get("token", "").encode(), SECRET)
                    return AuthContext("sender") if fits else None
    """

    platform: str = "http"
    """`"http"`, `"telegram"`, `"discord"`, or a custom interface's own."""
    user_id: str | None = None
    """The platform's; None for HTTP."""
    username: str | None = None
    chat_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of HTTP; looked up case-insensitively."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of a message: the platform's own."""
    method: str = ""
    """Of HTTP, in upper case; `"GET"` for the handshake of a WebSocket."""
    url: str = ""
    """Of HTTP: the whole URL as it was sent, with scheme, host and raw query: what Twilio, HubSpot and others sign."""
    path: str = ""
    """Of HTTP, decoded."""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of HTTP: the parameters of the query, decoded; of a repeated one, the last."""
    body: bytes = b""
    """Of HTTP: the raw request body, for a provider that says `needs_body = True` (`consult.py`)."""

    def header(self, name: str) -> str | None:
        """A header's value, whatever the case of its name; None when it is absent."""
        value = self.headers.get(name)
        if value is not None:
            return value
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


def evaluated(value: Any) -> Any:
    """A value, or that of a function that gives it."""
    return value() if callable(value) else value


# Few providers look at them, and a webhook's cost is measured in microseconds.
made_when_asked_for(AuthRequest, "url", evaluated, "Of HTTP: the whole URL as it was sent, with its raw query.")
made_when_asked_for(AuthRequest, "query", evaluated, "Of HTTP: the query's parameters; of a repeated one, the last.")


@dataclass(frozen=True, slots=True)
class AuthContext:
    """Who the caller is."""

    user_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else is known of the caller, such as a token's claims: runs have it as `context.auth.metadata`. On a durable
    bus, JSON."""
    may_act_for_others: bool = False
    """Whether the caller may name another user that it acts for, as a service with an API key does."""
    scopes: frozenset[str] | None = None
    """What the caller may do: `"run"`, `"read"`, `"admin"` (everything, with everybody's sessions and runs); None: all
    but `"admin"`."""

    @property
    def is_admin(self) -> bool:
        """Whether the caller sees everybody's sessions and runs."""
        return self.scopes is not None and "admin" in self.scopes

    def may(self, scope: str) -> bool:
        """Whether the caller has a scope."""
        return self.scopes is None or scope in self.scopes or "admin" in self.scopes

    @property
    def namespace(self) -> str:
        """Begins the ids of the caller's sessions in the store: the same id of two callers is two sessions."""
        is_sender = self.metadata.get("auth_method") == "signature"
        kind = "service" if self.may_act_for_others else "sender" if is_sender else "user"
        return f"{kind}~{quote(self.user_id, safe='', errors='surrogatepass').replace('~', '%7E')}~"

    def session_key(self, session_id: str) -> str:
        """The id in the store, and for `arun`, of the session that this caller calls `session_id`.

        Args:
            session_id: As the caller has it in requests and answers.

        Example:
            A webhook's handler goes on with a session that its caller began with `POST /run`:

                return {"input": "go on", "session_id": event.raw.auth.session_key("trip")}
        """
        return self.namespace + session_id


def platform_identity(platform: str, user_id: str) -> str:
    """The user id of a messaging platform's user: `telegram:42`."""
    return f"{platform}:{user_id}"


@runtime_checkable
class AuthProvider(Protocol):
    """Decides who a caller is.

    A provider may say where it speaks with an attribute `platforms`, such as `{"http"}`. Without it, or with None, it
    is asked everywhere. A chat whose platform `agent.auth` does not speak for is open to everybody, and serving warns
    of it; an HTTP endpoint is never open for that reason. `consult.py` names the other attributes that it may have.
    """

    def authenticate(self, request: AuthRequest) -> AuthContext | Awaitable[AuthContext | None] | None:
        """The caller's identity, or None when it cannot be established; sync or async."""
        ...


def is_provider(candidate: object) -> bool:
    """Whether something can be asked who a caller is: an object, and not its class, with `authenticate`."""
    return not isinstance(candidate, type) and callable(getattr(candidate, "authenticate", None))
