"""Verifies tokens with PyJWT: the only import of it, made when a `JWTAuth` is constructed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any, cast

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


REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet: it was issued ahead of this clock"),
    (jwt.InvalidAudienceError, "the token is meant for another audience"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
    (jwt.InvalidAlgorithmError, "the token is signed with another algorithm"),
    (jwt.InvalidSignatureError, "the token was signed with another key"),
    (jwt.MissingRequiredClaimError, "the token lacks a claim: an audience or an issuer"),
)


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
        try:
            return self._decoded(token)
        except (jwt.PyJWTError, *LET_THROUGH):
            return None

    def problem(self, token: str) -> str | None:
        """What is wrong with a token, for the log: no part of the token is in it. None when nothing is."""
        try:
            self._decoded(token)
        except (jwt.PyJWTError, *LET_THROUGH) as error:
            return next((text for kind, text in REASONS if isinstance(error, kind)), "it is no valid token")
        return None

    def _decoded(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN or COMPACT.fullmatch(token) is None:
            raise jwt.DecodeError
        claims: dict[str, Any] = jwt.decode(
            token,
            self._key,
            algorithms=self._algorithms,
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY,
            options={"verify_sub": False},  # issuers with numeric users exist; the type is judged by `user_id_of`
        )
        # PyJWT applies the leeway to all times alike, and has found `exp` to be a number.
        if "exp" in claims and int(claims["exp"]) <= time.time():
            raise jwt.ExpiredSignatureError
        return claims


def verifying_key(secret: str | bytes, algorithm: str) -> Any:
    """The shared secret or the public key, as PyJWT takes it."""
    if algorithm not in ALGORITHMS:
        raise ConfigurationError(f"JWTAuth(algorithm={algorithm!r}): one of {', '.join(ALGORITHMS)}")
    if not isinstance(secret, str | bytes) or not secret.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("JWTAuth(secret=...): a secret or a public key in PEM, not empty")
    key = secret.encode() if isinstance(secret, str) else secret
    if key.lstrip().lower().startswith((b"http://", b"https://")):
        raise ConfigurationError(
            "JWTAuth(secret=...): this is a URL, and everybody who knows it could sign tokens with it. Key sets are "
            "not fetched: give the issuer's public key in PEM, and its algorithm, such as RS256"
        )
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
    given: Any = value
    is_several = isinstance(given, Iterable) and not isinstance(given, str)
    several: list[Any] = list(cast("Iterable[Any]", given)) if is_several else [given]
    if not several or not all(isinstance(each, str) and each for each in several):
        raise ConfigurationError(f"JWTAuth({argument}=...): a name or several, none of them empty; None for no check")
    return several
