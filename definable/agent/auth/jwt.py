"""Users that another service has signed in: JSON Web Tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from definable.errors import AuthUnavailable, ConfigurationError, MissingExtra

from .base import AuthContext, AuthRequest

if TYPE_CHECKING:
    from .published_keys import PublishedKeys

USER_CLAIMS = ("sub", "user_id", "id")
"""Where the user is named: the first of these that a token has decides."""


class JWTAuth:
    """Accepts callers with a valid token: `Authorization: Bearer <token>` (RFC 6750, RFC 7519).

    The user is named by `sub`, else `user_id`, else `id`: a string, or an integer, which becomes one. The other claims
    are in the context's `metadata`. The caller acts for this user alone.

    The keys are given, or fetched from the identity provider: from `jwks_url`, or from where the discovery document of
    `issuer` says (OpenID Connect Discovery). Fetched keys are kept for 5 minutes; a token of a key that is not known
    has them fetched at once, once for all such tokens. While the identity provider is away, the known keys go on for an
    hour, and what they do not verify is answered 503. Redirects are not followed; a published secret is left out.

    `exp`, when the token has it, is honoured to the second; `nbf` and `iat` may be ahead by `leeway`, as the issuer's
    clock may be. A token that is meant for an audience is refused unless `audience` names it (RFC 7519, 4.1.3). Only
    algorithms of a key's own type are accepted, and of those only the given ones, whatever a token's header says.

    Args:
        secret: For HS256, HS384 and HS512 the shared secret, at least as long as the hash: 32, 48 or 64 bytes
            (RFC 7518, 3.2). For RS*, PS*, ES* and EdDSA the issuer's public key: PEM, an X.509 certificate (whose dates
            are not judged), a JWK or a JWK set as JSON or a mapping. Several in a list.
        algorithm: The one that tokens are signed with, or several (RFC 7518, 3.1; RFC 8037). None: HS256 for a shared
            secret, and all of a public key's type.
        audience: Who this service is; a token must then be meant for it, or for one of several.
        issuer: Who issues the tokens; a token must then be from it, or from one of several.
        jwks_url: Where the identity provider has its JWK set.
        leeway: Seconds, at most 600.

    Raises:
        ConfigurationError: The algorithm is unknown or `none`, the secret is too weak or does not fit it, a private
            key was given, the audience or the issuer is empty, or a URL is not of HTTPS outside a private network.
        MissingExtra: PyJWT, or cryptography for public keys, is not installed.

    Example:
        >>> agent.auth = JWTAuth(os.environ["JWT_SECRET"], audience="my-agent")  # doctest: +SKIP
        >>> agent.auth = JWTAuth(issuer="https://id.example", audience="my-agent")  # doctest: +SKIP
    """

    immediate = True
    platforms: ClassVar[frozenset[str]] = frozenset({"http"})

    def __init__(
        self,
        secret: str | bytes | Mapping[str, Any] | Iterable[str | bytes | Mapping[str, Any]] | None = None,
        algorithm: str | Iterable[str] | None = None,
        audience: str | Iterable[str] | None = None,
        issuer: str | Iterable[str] | None = None,
        *,
        jwks_url: str | None = None,
        leeway: float = 10.0,
    ) -> None:
        try:
            from .token_verifier import TokenVerifier, algorithm_names, names  # PyJWT is an extra
            from .verifying_keys import ASYMMETRIC, given_keys
        except ImportError as error:
            raise MissingExtra("JWTAuth needs PyJWT: pip install 'definable[jwt]'") from error
        algorithms = algorithm_names(algorithm)
        issuers = names("issuer", issuer)
        self._published: PublishedKeys | None = None
        if secret is not None or (jwks_url is None and issuers is None):
            if jwks_url is not None:
                raise ConfigurationError("JWTAuth(secret=..., jwks_url=...): one of the two")
            given = given_keys(secret, algorithms)
            self._verifier = TokenVerifier(lambda: given, audience, issuers, leeway)
            self.algorithms: tuple[str, ...] = algorithms or tuple(sorted({a for key in given for a in key.algorithms}))
            return
        from .published_keys import PublishedKeys  # httpx2, which the others do not need

        self.algorithms = algorithms or ASYMMETRIC
        if unfit := set(self.algorithms) - set(ASYMMETRIC):
            raise ConfigurationError(f"JWTAuth(algorithm={sorted(unfit)}): no published key is a shared secret")
        if jwks_url is None:
            if issuers is None or len(issuers) != 1:
                raise ConfigurationError(f"JWTAuth(issuer={issuer!r}): several need the jwks_url of their keys")
            issuers = [issuers[0], issuers[0].rstrip("/"), issuers[0].rstrip("/") + "/"]
        published = PublishedKeys(jwks_url, None if issuers is None else issuers[0], self.algorithms)
        self._verifier = TokenVerifier(lambda: published.keys, audience, issuers, leeway)
        self._published = published

    def __repr__(self) -> str:
        keys = "" if self._published is None else f", keys={self._published!r}"
        return f"JWTAuth(algorithm={'|'.join(self.algorithms)!r}{keys})"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Keep published keys fresh while the context is open; a service that uses the provider has it open."""
        if self._published is None:
            yield
            return
        async with self._published.open():
            yield

    def authenticate(self, request: AuthRequest) -> AuthContext | Awaitable[AuthContext | None] | None:
        """The user that the token names; None for other platforms than HTTP, and without a valid token.

        Returns:
            The answer, or an awaitable of it where keys have to be fetched first, which raises `AuthUnavailable` when
            the identity provider is away.
        """
        token = bearer_token(request)
        if token is None or request.platform != "http":
            return None
        claims = self._verifier.claims(token)
        published = self._published
        if published is not None and (published.is_due or (claims is None and self._verifier.is_of_another_key(token))):
            return self._judged_by_fresh_keys(published, token)
        return None if claims is None else context_of(claims)

    def explain(self, request: AuthRequest) -> str:
        """Why a caller is refused, for the log."""
        token = bearer_token(request)
        if token is None:
            return "no bearer token"
        return self._verifier.problem(token) or "the token names no user"

    async def _judged_by_fresh_keys(self, published: PublishedKeys, token: str) -> AuthContext | None:
        is_answered = await published.fetched_for(lambda: published.is_due or self._verifier.is_of_another_key(token))
        claims = self._verifier.claims(token)
        if claims is not None:
            return context_of(claims)
        if not is_answered and self._verifier.is_of_another_key(token):
            raise AuthUnavailable(f"{published!r} cannot be asked for its keys")
        return None


def bearer_token(request: AuthRequest) -> str | None:
    """The token of `Authorization`; None where there is none."""
    scheme, _, token = (request.header("Authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


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
