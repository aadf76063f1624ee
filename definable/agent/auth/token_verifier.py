"""Verifies tokens with PyJWT, which is imported when a `JWTAuth` is constructed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import jwt

from definable.errors import ConfigurationError

from .verifying_keys import ALGORITHMS, VerifyingKey

LEEWAY = 10.0
"""Seconds by which an issuer's clock may be ahead of ours."""

MAX_LEEWAY = 600.0
"""Seconds."""

MAX_TOKEN = 16 * 1024
"""Characters; far more than a request's headers usually have room for."""

LET_THROUGH = (ValueError, TypeError, OverflowError, RecursionError)
"""What PyJWT up to 2.13 lets through for a deeply nested token, or an `exp` that is no number."""

COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""A signed token: RFC 7515, 7.1."""


class UnknownKey(jwt.PyJWTError):
    """A token names a key that is not among those that are known."""


OTHER_KEY = (UnknownKey, jwt.InvalidSignatureError)
"""Also what a valid token raises whose key was published after the known ones were fetched."""


REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet: it was issued ahead of this clock"),
    (jwt.InvalidAudienceError, "the token is meant for another audience"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
    (jwt.InvalidAlgorithmError, "the token is signed with another algorithm"),
    (jwt.InvalidSignatureError, "the token was signed with another key"),
    (UnknownKey, "the token names a key that is not known"),
    (jwt.MissingRequiredClaimError, "the token lacks a claim: an audience or an issuer"),
)


class TokenVerifier:
    """Takes a token apart and checks signature, times, audience and issuer.

    Args:
        keys: Gives the keys that are known.
        audience: Who a token must be meant for; None for tokens without audience.
        issuer: Who a token must be from; None for anybody with the key.
        leeway: Seconds by which an issuer's clock may be ahead of ours.

    Raises:
        ConfigurationError: An audience or an issuer is empty, or the leeway is out of its range.
    """

    def __init__(
        self,
        keys: Callable[[], Sequence[VerifyingKey]],
        audience: str | Iterable[str] | None,
        issuer: str | Iterable[str] | None,
        leeway: float = LEEWAY,
    ) -> None:
        if isinstance(leeway, bool) or not isinstance(leeway, int | float) or not 0 <= leeway <= MAX_LEEWAY:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"JWTAuth(leeway={leeway!r}): seconds, 0 to {MAX_LEEWAY:g}")
        self._keys = keys
        self._audience = names("audience", audience)
        self._issuer = names("issuer", issuer)
        self._leeway = leeway

    def claims(self, token: str) -> dict[str, Any] | None:
        """The claims of a valid token; None for anything else, whatever it is."""
        try:
            return self._decoded(token)
        except (jwt.PyJWTError, *LET_THROUGH):
            return None

    def is_of_another_key(self, token: str) -> bool:
        """Whether nothing but its key speaks against a token: it may be one that was published since."""
        try:
            self._decoded(token)
        except OTHER_KEY:
            return True
        except (jwt.PyJWTError, *LET_THROUGH):
            pass
        return False

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
        header = jwt.get_unverified_header(token)
        algorithm: Any = header.get("alg")
        kid: Any = header.get("kid")
        known = self._keys()
        keys = [key for key in known if key.fits(algorithm, kid)]
        if not keys:
            if algorithm not in ALGORITHMS or any(key.fits(each, kid) for key in known for each in key.algorithms):
                raise jwt.InvalidAlgorithmError
            raise UnknownKey
        for key in keys[:-1]:
            try:
                return self._decoded_with(token, key.key, algorithm)
            except jwt.InvalidSignatureError:
                continue
        return self._decoded_with(token, keys[-1].key, algorithm)

    def _decoded_with(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway,
            options={"verify_sub": False},  # issuers with numeric users exist; the type is judged by `user_id_of`
        )
        # PyJWT applies the leeway to all times alike, and has found `exp` to be a number.
        if "exp" in claims and int(claims["exp"]) <= time.time():
            raise jwt.ExpiredSignatureError
        return claims


def algorithm_names(algorithms: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """The algorithms that a user has chosen; None when it is left to the keys.

    Raises:
        ConfigurationError: One is unknown, or `none`.
    """
    if algorithms is None:
        return None
    given: Any = algorithms
    is_several = isinstance(given, Iterable) and not isinstance(given, str)
    several: list[Any] = list(cast("Iterable[Any]", given)) if is_several else [given]
    if not several or not all(isinstance(each, str) and each in ALGORITHMS for each in several):
        raise ConfigurationError(f"JWTAuth(algorithm={algorithms!r}): one or several of {', '.join(ALGORITHMS)}")
    return tuple(several)


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
