"""What an endpoint is, and whom it acts for."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from definable.agent.auth.base import AuthContext
from definable.agent.runtime.http.answer import Answer
from definable.agent.runtime.http.problem import Problem
from definable.agent.runtime.http.request import Request


class Sendable(Protocol):
    """Something to answer with."""

    def send(self, answer: Answer, /) -> Awaitable[None]:
        """Answer a request; what it raises becomes the response, unless one has started."""
        ...


class Endpoint(Protocol):
    """Answers requests to one path and method."""

    async def __call__(self, request: Request) -> Sendable: ...


def acting_user(auth: AuthContext | None, claimed: str | None) -> str | None:
    """Whose request it is: the caller's own, or that of a user it may act for.

    Raises:
        Problem: 403, the caller may not act for the user it names.
    """
    if auth is None or claimed == auth.user_id:
        return claimed
    if claimed is None:
        return auth.user_id
    if not auth.may_act_for_others:
        raise Problem(403, "this caller may not act for another user")
    return claimed


def may_go_on(auth: AuthContext | None, user_id: str | None, owner: str | None) -> bool:
    """Whether a run for a user may go on with the session of an owner; one that nobody owns is as `may_see` says."""
    return owner == user_id if owner is not None else may_see(auth, None)


def may_see(auth: AuthContext | None, owner: str | None) -> bool:
    """Whether a caller may see what belongs to a user.

    On an open agent everybody may; else the owner may, and who may act for others. What belongs to nobody was begun
    without a caller (by a cron job, an event) and is not for callers who are one user.
    """
    return auth is None or auth.may_act_for_others or owner == auth.user_id
