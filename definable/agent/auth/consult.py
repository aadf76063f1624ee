"""Consulting a provider: the one way for the HTTP endpoints, the interfaces and `CompositeAuth`.

A provider may declare these attributes beside `authenticate`:

- `platforms`: where it speaks, a set such as `{"http"}` or `{"telegram", "discord"}`; None, or no such attribute: it
  speaks everywhere. It is not asked elsewhere: HTTP is closed then, a chat is open (`speaks_on`).
- `explain(request)`: says for the log why a caller was refused, with no secret in it.
- `speaks_on(platform)`: the same as a method, for what a set cannot say.

- `needs_body = True`: it judges the raw body, which must be in `AuthRequest.body` before it is asked.
- `immediate = True`: its sync `authenticate` neither waits nor blocks, so it is called on the event loop; a worker
  thread would cost more than the answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection

from definable.agent.calling import call_user
from definable.errors import ConfigurationError

from .base import AuthContext, AuthProvider, AuthRequest

MAX_IMMEDIATE_BODY = 1024 * 1024
"""Bytes; to hash this many takes about half a millisecond, and more should not hold up the event loop."""


def needs_body(provider: AuthProvider) -> bool:
    """Whether the body must be read before the provider is asked."""
    return getattr(provider, "needs_body", False) is True


def speaks_on(provider: AuthProvider, platform: str) -> bool:
    """Whether a provider judges the callers of a platform; one that says nothing of it judges all of them."""
    method = getattr(provider, "speaks_on", None)
    if method is not None:
        return bool(method(platform))
    platforms = getattr(provider, "platforms", None)
    return platforms is None or platform in platforms


def check_platforms(provider: object) -> None:
    """Refuse a provider whose `platforms` is no set of names: a string would be searched for parts of names.

    Raises:
        ConfigurationError: It is none.
    """
    platforms: object = getattr(provider, "platforms", None)
    if platforms is None:
        return
    if isinstance(platforms, str) or not isinstance(platforms, Collection):
        raise ConfigurationError(f'{provider!r}.platforms={platforms!r}: a set such as {{"http"}}, or None')


def why_refused(provider: AuthProvider, request: AuthRequest) -> str:
    """Why a provider does not let a caller in, for the log; never with a secret in it.

    A provider may say it by a method `explain(request)`.
    """
    if not speaks_on(provider, request.platform):
        return f"{type(provider).__name__} lets in nobody on {request.platform}"
    explain = getattr(provider, "explain", None)
    try:
        reason = "missing or wrong credentials" if explain is None else explain(request)
    except Exception as error:  # of the user's own provider; the caller was refused before
        reason = f"refused; explain() raised {type(error).__name__}"
    return f"{type(provider).__name__}: {reason}"


async def consult(provider: AuthProvider, request: AuthRequest) -> AuthContext | None:
    """What a provider, sync or async, says of a caller; None when it does not know it, or does not speak there.

    Raises:
        TypeError: The provider answered something else than an `AuthContext` whose user id is a string, or None.
        Exception: Whatever the provider raises. The caller of this function must then deny.
    """
    if not speaks_on(provider, request.platform):
        return None
    if getattr(provider, "immediate", False) is True and len(request.body) <= MAX_IMMEDIATE_BODY:
        answer: object = provider.authenticate(request)
        if inspect.isawaitable(answer):
            answer = await answer
    else:
        answer = await call_user(provider.authenticate, request)
    if answer is None:
        return None
    if not isinstance(answer, AuthContext):
        raise TypeError(f"{provider!r} answered a {type(answer).__name__}: an AuthContext, or None to refuse")
    if not isinstance(answer.user_id, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the user's own code
        raise TypeError(
            f"{provider!r} answered AuthContext(user_id={answer.user_id!r}): a string, such as str(...) of it"
        )
    return answer
