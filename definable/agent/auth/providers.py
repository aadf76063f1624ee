"""Who may come in: holders of API keys, listed users of platforms, and whomever one of several providers knows."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from definable.concurrency.clock import current_clock
from definable.concurrency.rate_limits import rate_of
from definable.errors import ConfigurationError
from definable.original_library import API_KEY_ATTRIBUTES, unknown_attribute

from .base import (
    AuthContext,
    AuthProvider,
    AuthRequest,
    authenticate,
    check_platforms,
    has_limits,
    is_provider,
    needs_body,
    opened,
    platform_identity,
    speaks_on,
    why_refused,
    wire_bytes,
)


class CompositeAuth:
    """Accepts whomever one of the providers accepts; the first that does says who it is.

    A provider that raises denies, here as everywhere: the exception goes through, and the providers after it are not
    asked. A broken provider is thereby noticed at once, and never turns into a quiet way in as somebody else. Put the
    providers that depend on nothing (keys, tokens) before those that ask another service.

    It speaks where one of its members does, and asks only those who speak there.

    Args:
        providers: Sync or async, in the order in which they are asked.

    Raises:
        ConfigurationError: There is none, or one is not a provider.

    Example:
        >>> agent.auth = CompositeAuth(APIKeyAuth(keys), JWTAuth(secret))  # doctest: +SKIP
    """

    def __init__(self, *providers: AuthProvider) -> None:
        if not providers:
            raise ConfigurationError("CompositeAuth(): at least one provider")
        for provider in providers:
            if not is_provider(provider):
                raise ConfigurationError(f"CompositeAuth({provider!r}): an object with an authenticate() method")
            check_platforms(provider)
        self.providers = providers
        self.needs_body: bool = any(needs_body(provider) for provider in providers)
        self.has_limits: bool = any(has_limits(provider) for provider in providers)

    def __repr__(self) -> str:
        return f"CompositeAuth({', '.join(map(repr, self.providers))})"

    def open(self) -> AbstractAsyncContextManager[None]:
        """Have its members open while the context is."""
        return opened(self.providers)

    @property
    def platforms(self) -> frozenset[str] | None:
        """Where its members speak; None when one of them speaks everywhere."""
        named: list[Iterable[str] | None] = [getattr(provider, "platforms", None) for provider in self.providers]
        return None if None in named else frozenset(name for names in named for name in names or ())

    def speaks_on(self, platform: str) -> bool:
        """Whether one of its members judges the callers of a platform."""
        return any(speaks_on(provider, platform) for provider in self.providers)

    def explain(self, request: AuthRequest) -> str:
        """Why a caller is refused, for the log."""
        asked = (provider for provider in self.providers if speaks_on(provider, request.platform))
        return "; ".join(why_refused(provider, request) for provider in asked)

    async def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The caller as the first provider that knows it says; None when none does."""
        for provider in self.providers:
            context = await authenticate(provider, request)
            if context is not None:
                return context
        return None


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
        self.user_ids: frozenset[str] = id_set("AllowlistAuth(user_ids", user_ids)
        self.chat_ids: frozenset[str] | None = allowed_ids("AllowlistAuth(chat_ids", chat_ids)
        self.platforms: frozenset[str] | None = allowed_ids("AllowlistAuth(platforms", platforms)
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
    """The ids as strings, as messages carry them.

    Args:
        argument: For the error: `"AllowlistHook(allowed_user_ids"`.
        ids: One, or several.

    Raises:
        ConfigurationError: One is empty, or no id.
    """
    if not isinstance(ids, str | int | Iterable) or isinstance(ids, bytes | bytearray | Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{argument}={ids!r}): an id or several")
    several = [ids] if isinstance(ids, str | int) else list(ids)
    for each in several:
        if isinstance(each, bool) or not isinstance(each, str | int) or not str(each).strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{argument}=...): {each!r} is not an id")
    return frozenset(map(str, several))


def allowed_ids(argument: str, ids: Ids | None) -> frozenset[str] | None:
    """As `id_set`; None lets in everybody."""
    return None if ids is None else id_set(argument, ids)


PLAIN = frozenset({"run", "read"})
"""Of a key without an `APIKey` around it."""


@dataclass(frozen=True, slots=True)
class APIKey:
    """One key of `APIKeyAuth`, and what its holder may do.

    Args:
        key: The key.
        scopes: Of `"run"` (start and cancel runs, forget sessions, call webhooks and routes that change something),
            `"read"` (GET), and `"admin"` (both, and everybody's sessions and runs).
        expires: From when on it is refused: a `datetime` with its time zone, or Unix seconds; None for never.
        rate_limit: How often its holder may call, such as `"60/minute"`: so many at once, and then one by one at this
            rate, whatever user it acts for. None leaves it to `serve(rate_limit=...)`.

    Raises:
        ConfigurationError: The key is empty or no string, a scope is unknown, the time has no zone, or the rate is no
            rate.

    Example:
        >>> APIKeyAuth(keys={"shop": "a-long-key", "operator": APIKey("another", scopes={"admin"})})
        APIKeyAuth(<2 keys>, header='X-API-Key')
    """

    key: str = field(repr=False)
    scopes: Collection[str] = PLAIN
    expires: datetime | float | None = None
    rate_limit: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("APIKey(key): a string, not empty")
        given: Any = self.scopes
        is_set = isinstance(given, Iterable) and not isinstance(given, str)
        scopes = list(cast("Iterable[Any]", given)) if is_set else []
        if not scopes or not all(scope in ("run", "read", "admin") for scope in scopes):
            raise ConfigurationError(f"APIKey(scopes={given!r}): a set of 'run', 'read' and 'admin', not empty")
        object.__setattr__(self, "scopes", frozenset(scopes))
        expires: Any = self.expires
        if isinstance(expires, datetime) and expires.tzinfo is not None:
            expires = expires.timestamp()
        if expires is not None and (isinstance(expires, bool) or not isinstance(expires, int | float)):
            raise ConfigurationError(f"APIKey(expires={expires!r}): a datetime with its time zone, or Unix seconds")
        if expires != expires:
            raise ConfigurationError("APIKey(expires=nan): a datetime with its time zone, or Unix seconds")
        object.__setattr__(self, "expires", expires)
        if self.rate_limit is not None:
            rate_of(self.rate_limit, "APIKey(rate_limit")


class APIKeyAuth:
    """Accepts callers that present one of the keys.

    The key is taken from `header`, else from `Authorization`, with or without `Bearer `. Keys are compared over bytes
    in constant time, and a caller with a key may name the user that it acts for. Two keys are two callers: neither gets
    at the sessions and runs of the other.

    Args:
        keys: One key, or several (one for each client). As a mapping, by the client's name: a key, or an `APIKey` with
            its scopes.
        header: The header that carries the key.

    Raises:
        ConfigurationError: There is no key, one is empty or no string, two clients have the same, or the header's name
            is none.

    Example:
        >>> agent.auth = APIKeyAuth(keys={"a-long-random-key"})  # doctest: +SKIP
    """

    immediate = True
    platforms: ClassVar[frozenset[str]] = frozenset({"http"})

    def __init__(
        self, keys: str | APIKey | Iterable[str | APIKey] | Mapping[str, str | APIKey], header: str = "X-API-Key"
    ) -> None:
        if not isinstance(header, str) or not header.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"APIKeyAuth(header={header!r}): a header's name")
        self.header = header
        self.has_limits: bool = any(each.rate_limit is not None for _, each in named(keys))
        self._keys = [(each.key.encode("utf-8", "surrogatepass"), *identity(name, each)) for name, each in named(keys)]

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute("APIKeyAuth", name, API_KEY_ATTRIBUTES)

    def __repr__(self) -> str:
        return f"APIKeyAuth(<{len(self._keys)} keys>, header={self.header!r})"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The caller by its key; None for other platforms than HTTP, and without a known key."""
        presented = self._presented(request)
        if presented is None:
            return None
        found, expires = self._found(presented)
        if found is None or expires <= current_clock().now():
            return None
        # A new one each time, since user code may change its metadata.
        return AuthContext(found.user_id, dict(found.metadata), True, found.scopes, found.rate)

    def explain(self, request: AuthRequest) -> str:
        """Why a caller is refused, for the log."""
        presented = self._presented(request)
        if presented is None:
            return f"no API key in {self.header} or Authorization"
        found, _ = self._found(presented)
        return "the API key is unknown" if found is None else f"the API key of {found.user_id} has expired"

    def _found(self, presented: bytes) -> tuple[AuthContext | None, float]:
        """Whose key it is, and until when."""
        found, expires = None, inf
        for key, caller, end in self._keys:  # to the end: the time taken must not tell which key fits
            if hmac.compare_digest(key, presented):
                found, expires = caller, end
        return found, expires

    def _presented(self, request: AuthRequest) -> bytes | None:
        if request.platform != "http":
            return None
        value = None if self.header.lower() == "authorization" else request.header(self.header)
        if value is None:
            value = request.header("Authorization")
            if value is None:
                return None
            scheme, _, rest = value.partition(" ")
            if scheme.lower() == "bearer":
                value = rest.strip()
        return wire_bytes(value)


def named(keys: Any) -> list[tuple[str | None, APIKey]]:
    """The keys with their clients' names, where they have any.

    Raises:
        ConfigurationError: See `APIKeyAuth`.
    """
    by_key: dict[str, tuple[str | None, APIKey]] = {}
    for name, each in pairs(keys):
        if name is not None and not (isinstance(name, str) and name):
            raise ConfigurationError(f"APIKeyAuth(keys={{{name!r}: ...}}): a client's name is a string, not empty")
        if not isinstance(each, APIKey) and not (isinstance(each, str) and each):
            raise ConfigurationError(
                "APIKeyAuth(keys=...): at least one key, each an APIKey or a string that is not empty"
            )
        key = each if isinstance(each, APIKey) else APIKey(each)
        known_as, known = by_key.setdefault(key.key, (name, key))
        if (known_as, known) != (name, key):
            raise ConfigurationError(f"APIKeyAuth(keys=...): two have the same key: {known_as!r} and {name!r}")
    if not by_key:
        raise ConfigurationError("APIKeyAuth(keys=...): at least one key")
    return list(by_key.values())


def pairs(keys: Any) -> list[tuple[Any, Any]]:
    """What was given as keys, each with the name of its client or None."""
    if isinstance(keys, Mapping):
        return list(cast("Mapping[Any, Any]", keys).items())
    if isinstance(keys, (str, APIKey)):
        return [(None, keys)]
    if keys is None or not isinstance(keys, Iterable) or isinstance(keys, (bytes, bytearray)):
        raise ConfigurationError(f"APIKeyAuth(keys=...): at least one key, a string, not {type(keys).__name__}")
    return [(None, key) for key in cast("Iterable[Any]", keys)]


def identity(name: str | None, key: APIKey) -> tuple[AuthContext, float]:
    """Who presents a key, and until when, in Unix seconds."""
    metadata = {"auth_method": "api_key"} | ({} if name is None else {"key": name})
    scopes = None if key.scopes == PLAIN else frozenset(key.scopes)
    rate = None if key.rate_limit is None else rate_of(key.rate_limit)
    expires = inf if key.expires is None else cast("float", key.expires)
    return AuthContext(user_id_of(key.key), metadata, True, scopes, rate), expires


def user_id_of(key: str) -> str:
    """`apikey_` and the first 12 hex digits of the key's SHA-256."""
    return f"apikey_{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
