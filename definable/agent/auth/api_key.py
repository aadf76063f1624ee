"""API keys for services and scripts."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from definable.errors import ConfigurationError

from .base import AuthContext, AuthRequest

PLAIN = frozenset({"run", "read"})
"""Of a key without an `APIKey` around it."""


@dataclass(frozen=True, slots=True)
class APIKey:
    """One key of `APIKeyAuth`, and what its holder may do.

    Args:
        key: The key.
        scopes: Of `"run"` (start and cancel runs, forget sessions, call webhooks and routes that change something),
            `"read"` (GET), and `"admin"` (both, and everybody's sessions and runs).

    Raises:
        ConfigurationError: The key is empty or no string, or a scope is unknown.

    Example:
        >>> APIKeyAuth(keys={"shop": "a-long-key", "operator": APIKey("another", scopes={"admin"})})
        APIKeyAuth(<2 keys>, header='X-API-Key')
    """

    key: str = field(repr=False)
    scopes: Collection[str] = PLAIN

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("APIKey(key): a string, not empty")
        given: Any = self.scopes
        is_set = isinstance(given, Iterable) and not isinstance(given, str)
        scopes = list(cast("Iterable[Any]", given)) if is_set else []
        if not scopes or not all(scope in ("run", "read", "admin") for scope in scopes):
            raise ConfigurationError(f"APIKey(scopes={given!r}): a set of 'run', 'read' and 'admin', not empty")
        object.__setattr__(self, "scopes", frozenset(scopes))


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
    """It neither waits nor blocks: see `consult.py`."""
    platforms: ClassVar[frozenset[str]] = frozenset({"http"})

    def __init__(
        self, keys: str | APIKey | Iterable[str | APIKey] | Mapping[str, str | APIKey], header: str = "X-API-Key"
    ) -> None:
        if not isinstance(header, str) or not header.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"APIKeyAuth(header={header!r}): a header's name")
        self.header = header
        self._keys = [(each.key.encode("utf-8", "surrogatepass"), Holder(name, each)) for name, each in named(keys)]

    def __repr__(self) -> str:
        return f"APIKeyAuth(<{len(self._keys)} keys>, header={self.header!r})"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The caller by its key; None for other platforms than HTTP, and without a known key."""
        presented = self._presented(request)
        if presented is None:
            return None
        holder = None
        for key, its_holder in self._keys:  # to the end: the time taken must not tell which key fits
            if hmac.compare_digest(key, presented):
                holder = its_holder
        return None if holder is None else holder.context()

    def explain(self, request: AuthRequest) -> str:
        """Why a caller is refused, for the log."""
        presented = self._presented(request)
        return f"no API key in {self.header} or Authorization" if presented is None else "the API key is unknown"

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
        # Header values are decoded from latin-1, keys are UTF-8: compare the bytes that came over the wire.
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:  # not from the wire
            return value.encode("utf-8", "surrogatepass")


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


class Holder:
    """Who presents a key."""

    __slots__ = ("_metadata", "_scopes", "_user_id")

    def __init__(self, name: str | None, key: APIKey) -> None:
        self._user_id = user_id_of(key.key)
        self._metadata = {"auth_method": "api_key"} | ({} if name is None else {"key": name})
        self._scopes = None if key.scopes == PLAIN else frozenset(key.scopes)

    def context(self) -> AuthContext:
        """A new one, since user code may change what is in it."""
        return AuthContext(self._user_id, dict(self._metadata), True, self._scopes)


def user_id_of(key: str) -> str:
    """`apikey_` and the first 12 hex digits of the key's SHA-256."""
    return f"apikey_{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
