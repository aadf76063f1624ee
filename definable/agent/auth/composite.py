"""Several ways in."""

from __future__ import annotations

from collections.abc import Iterable

from definable.errors import ConfigurationError

from .base import AuthContext, AuthProvider, AuthRequest, is_provider
from .consult import check_platforms, consult, needs_body, speaks_on, why_refused


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

    def __repr__(self) -> str:
        return f"CompositeAuth({', '.join(map(repr, self.providers))})"

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
            context = await consult(provider, request)
            if context is not None:
                return context
        return None
