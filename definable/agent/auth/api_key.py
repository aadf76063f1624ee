"""API keys for services and scripts."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import ClassVar

from definable.errors import ConfigurationError

from .base import AuthContext, AuthRequest


class APIKeyAuth:
    """Accepts callers that present one of the keys.

    The key is taken from `header`, else from `Authorization`, with or without `Bearer `. Keys are compared over bytes
    in constant time, and a caller with a key may name the user that it acts for.

    Args:
        keys: One key, or several (for rotation, or one for each client).
        header: The header that carries the key.

    Raises:
        ConfigurationError: There is no key, or one is empty.

    Example:
        >>> agent.auth = APIKeyAuth(keys={"a-long-random-key"})  # doctest: +SKIP
    """

    immediate = True
    """It neither waits nor blocks: see `consult.py`."""
    platforms: ClassVar[frozenset[str]] = frozenset({"http"})

    def __init__(self, keys: str | Iterable[str], header: str = "X-API-Key") -> None:
        known = {keys} if isinstance(keys, str) else set(keys or ())
        if not known or not all(isinstance(key, str) and key for key in known):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("APIKeyAuth(keys=...): at least one key, none of them empty")
        self.header = header
        self._keys = [(key.encode(), user_id_of(key)) for key in sorted(known)]

    def __repr__(self) -> str:
        return f"APIKeyAuth(<{len(self._keys)} keys>, header={self.header!r})"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The caller by its key; None for other platforms than HTTP, and without a known key."""
        presented = self._presented(request)
        if presented is None:
            return None
        user_id = None
        for key, owner in self._keys:  # to the end: the time taken must not tell which key fits
            if hmac.compare_digest(key, presented):
                user_id = owner
        if user_id is None:
            return None
        return AuthContext(user_id=user_id, metadata={"auth_method": "api_key"}, may_act_for_others=True)

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


def user_id_of(key: str) -> str:
    """`apikey_` and the first 12 hex digits of the key's SHA-256."""
    return f"apikey_{hashlib.sha256(key.encode()).hexdigest()[:12]}"
