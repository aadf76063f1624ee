"""Consulting a provider: the one way for the HTTP endpoints, the interfaces and `CompositeAuth`.

A provider may declare two attributes beside `authenticate`:

- `needs_body = True`: it judges the raw body, which must be in `AuthRequest.body` before it is asked.
- `immediate = True`: its sync `authenticate` neither waits nor blocks, so it is called on the event loop; a worker
  thread would cost more than the answer.
"""

from __future__ import annotations

import inspect

from definable.agent.calling import call_user

from .base import AuthContext, AuthProvider, AuthRequest

MAX_IMMEDIATE_BODY = 1024 * 1024
"""Bytes; to hash this many takes about half a millisecond, and more should not hold up the event loop."""


def needs_body(provider: AuthProvider) -> bool:
    """Whether the body must be read before the provider is asked."""
    return getattr(provider, "needs_body", False) is True


async def consult(provider: AuthProvider, request: AuthRequest) -> AuthContext | None:
    """What a provider, sync or async, says of a caller; None when it does not know the caller.

    Raises:
        TypeError: The provider answered something else than an `AuthContext` whose user id is a string, or None.
        Exception: Whatever the provider raises. The caller of this function must then deny.
    """
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
