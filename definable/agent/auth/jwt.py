"""Users that another service has signed in: JSON Web Tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from definable.errors import MissingExtra

from .base import AuthContext, AuthRequest

USER_CLAIMS = ("sub", "user_id", "id")
"""Where the user is named: the first of these that a token has decides."""


class JWTAuth:
    """Accepts callers with a valid token: `Authorization: Bearer <token>` (RFC 6750, RFC 7519).

    The user is named by `sub`, else `user_id`, else `id`: a string, or an integer, which becomes one. The other claims
    are in the context's `metadata`. The caller acts for this user alone.

    `exp`, when the token has it, is honoured to the second; `nbf` and `iat` may be up to 10 seconds ahead, as the
    issuer's clock may be. A token that is meant for an audience is refused unless `audience` names it (RFC 7519,
    4.1.3). Only the given algorithm is accepted, whatever a token's header says.

    Args:
        secret: For HS256, HS384 and HS512 the shared secret, at least as long as the hash: 32, 48 or 64 bytes
            (RFC 7518, 3.2). For RS*, PS*, ES* and EdDSA the issuer's public key in PEM.
        algorithm: The one algorithm (RFC 7518, 3.1; RFC 8037) that tokens are signed with.
        audience: Who this service is; a token must then be meant for it, or for one of several.
        issuer: Who issues the tokens; a token must then be from it, or from one of several.

    Raises:
        ConfigurationError: The algorithm is unknown or `none`, the secret is too weak or does not fit it, a private
            key was given, or the audience or the issuer is empty.
        MissingExtra: PyJWT, or cryptography for public keys, is not installed.

    Example:
        >>> agent.auth = JWTAuth(os.environ["JWT_SECRET"], audience="my-agent")  # doctest: +SKIP
    """

    immediate = True
    platforms: ClassVar[frozenset[str]] = frozenset({"http"})

    def __init__(
        self,
        secret: str | bytes,
        algorithm: str = "HS256",
        audience: str | Iterable[str] | None = None,
        issuer: str | Iterable[str] | None = None,
    ) -> None:
        try:
            from .token_verifier import TokenVerifier  # PyJWT is an extra
        except ImportError as error:
            raise MissingExtra("JWTAuth needs PyJWT: pip install 'definable[jwt]'") from error
        self.algorithm = algorithm
        self._verifier = TokenVerifier(secret, algorithm, audience, issuer)

    def __repr__(self) -> str:
        return f"JWTAuth(algorithm={self.algorithm!r})"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The user that the token names; None for other platforms than HTTP, and without a valid token."""
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        if request.platform != "http" or scheme.lower() != "bearer":
            return None
        claims = self._verifier.claims(token.strip())
        return None if claims is None else context_of(claims)

    def explain(self, request: AuthRequest) -> str:
        """Why a caller is refused, for the log."""
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            return "no bearer token"
        return self._verifier.problem(token.strip()) or "the token names no user"


def context_of(claims: Mapping[str, Any]) -> AuthContext | None:
    """The user and the other claims of a valid token; None when it names no user."""
    name = next((name for name in USER_CLAIMS if claims.get(name) is not None), None)
    user_id = None if name is None else user_id_of(claims[name])
    if user_id is None:
        return None
    others = {key: value for key, value in claims.items() if key != name}
    return AuthContext(user_id, {**others, "auth_method": "jwt"})


def user_id_of(claim: object) -> str | None:
    """The user id in a claim: an integer or text that can be stored and logged; None for anything else."""
    if isinstance(claim, int) and not isinstance(claim, bool):
        return str(claim)
    if not isinstance(claim, str) or not claim.strip():
        return None
    unfit = any(unicodedata.category(character) in ("Cc", "Cs") for character in claim)
    return None if unfit else claim
