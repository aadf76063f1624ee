"""Verifies tokens with PyJWT: the only import of it, made when a `JWTAuth` is constructed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

import jwt

from definable.errors import ConfigurationError, MissingExtra

LEEWAY = 10.0
"""Seconds by which an issuer's clock may be ahead of ours."""

MAX_TOKEN = 16 * 1024
"""Characters; far more than a request's headers usually have room for."""

LET_THROUGH = (ValueError, TypeError, OverflowError, RecursionError)
"""What PyJWT up to 2.13 lets through for a deeply nested token, or an `exp` that is no number."""

COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""A signed token: RFC 7515, 7.1."""

ALGORITHMS = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Of RFC 7518, 3.1 and RFC 8037; `none` is not among them."""


class TokenVerifier:
    """Takes a token apart and checks signature, times, audience and issuer.

    Args:
        secret: The shared secret, or a public key in PEM.
        algorithm: The one algorithm that is accepted.
        audience: Who a token must be meant for; None for tokens without audience.
        issuer: Who a token must be from; None for anybody with the key.

    Raises:
        ConfigurationError: The arguments do not make a safe verifier.
        MissingExtra: The algorithm needs cryptography, which is not installed.
    """

    def __init__(
        self,
        secret: str | bytes,
        algorithm: str,
        audience: str | Iterable[str] | None,
        issuer: str | Iterable[str] | None,
    ) -> None:
        self._key = verifying_key(secret, algorithm)
        self._algorithms = [algorithm]
        self._audience = names("audience", audience)
        self._issuer = names("issuer", issuer)

    def claims(self, token: str) -> dict[str, Any] | None:
        """The claims of a valid token; None for anything else, whatever it is."""
        if len(token) > MAX_TOKEN or COMPACT.fullmatch(token) is None:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"verify_sub": False},  # issuers with numeric users exist; the type is judged by `user_id_of`
            )
        except (jwt.PyJWTError, *LET_THROUGH):
            return None
        # PyJWT applies the leeway to all times alike, and has found `exp` to be a number.
        expired = "exp" in claims and int(claims["exp"]) <= time.time()
        return None if expired else claims


def verifying_key(secret: str | bytes, algorithm: str) -> Any:
    """The shared secret or the public key, as PyJWT takes it."""
    if algorithm not in ALGORITHMS:
        raise ConfigurationError(f"JWTAuth(algorithm={algorithm!r}): one of {', '.join(ALGORITHMS)}")
    if not isinstance(secret, str | bytes) or not secret.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("JWTAuth(secret=...): a secret or a public key in PEM, not empty")
    key = secret.encode() if isinstance(secret, str) else secret
    if b"PRIVATE KEY-----" in key:
        raise ConfigurationError("JWTAuth(secret=...): this is a private key; verifying takes the public key alone")
    return fitting_key(key, algorithm)


def fitting_key(key: bytes, algorithm: str) -> Any:
    """A key, parsed, of the algorithm's kind and strong enough for it."""
    try:
        implementation = jwt.get_algorithm_by_name(algorithm)
    except NotImplementedError as error:
        raise MissingExtra(f"JWTAuth({algorithm!r}) needs cryptography: pip install 'definable[jwt]'") from error
    try:
        parsed: Any = implementation.prepare_key(key)
    except (jwt.InvalidKeyError, ValueError, TypeError) as error:
        raise ConfigurationError(f"JWTAuth(secret=...): not a key for {algorithm}: {error}") from error
    if weakness := implementation.check_key_length(parsed):
        raise ConfigurationError(f"JWTAuth(secret=...) is too weak: {weakness}")
    return parsed


def names(argument: str, value: str | Iterable[str] | None) -> list[str] | None:
    """One or several names; None when there is nothing to check."""
    if value is None:
        return None
    several = [value] if isinstance(value, str) else list(value)
    if not several or not all(several):
        raise ConfigurationError(f"JWTAuth({argument}=...): a name or several, none of them empty; None for no check")
    return several
