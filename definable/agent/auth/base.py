"""The `AuthProvider` protocol, what it is asked and what it answers.

Called by the HTTP endpoints and by the messaging interfaces; a provider that raises denies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """What a provider may look at."""

    platform: str = "http"
    """`"http"`, `"telegram"`, `"discord"`, or a custom interface's own."""
    user_id: str | None = None
    """The platform's; None for HTTP."""
    username: str | None = None
    chat_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of HTTP; looked up case-insensitively."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    body: bytes = b""
    """Of HTTP: the raw request body."""

    def header(self, name: str) -> str | None:
        """A header's value, whatever the case of its name; None when it is absent."""
        value = self.headers.get(name)
        if value is not None:
            return value
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class AuthContext:
    """Who the caller is."""

    user_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    may_act_for_others: bool = False
    """Whether the caller may name another user that it acts for, as a service with an API key does."""


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
