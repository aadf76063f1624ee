"""Who may call what, and how often, for the ASGI entry; and whose runs a caller may see, for endpoints.

A provider that raises denies. `PublicPaths` are the user's own routes that need no credentials.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from math import ceil
from typing import Any

import anyio

from definable.agent.auth.base import (
    AuthContext,
    AuthProvider,
    AuthRequest,
    RefusalLog,
    authenticate,
    needs_body,
    why_refused,
)
from definable.agent.runtime.run_log import RunRecord
from definable.concurrency.rate_limits import Limits, MemoryLimits, Rate
from definable.errors import AuthUnavailable, ConfigurationError
from definable.server.problem import Problem

from .request import Request


class PublicPaths:
    """The paths of `serve(public=[...])`.

    Args:
        patterns: Paths, or globs over whole paths: `*` is any text, slashes included (`fnmatch`).

    Raises:
        ConfigurationError: One is no path.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = [re.compile(translate(checked_pattern(pattern))) for pattern in patterns]

    def __contains__(self, path: str) -> bool:
        return any(pattern.match(path) is not None for pattern in self._patterns)


def checked_pattern(pattern: str) -> str:
    """A pattern of `public`.

    Raises:
        ConfigurationError: It is no path.
    """
    if not isinstance(pattern, str) or not pattern.startswith("/"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"public: {pattern!r} is no path: such as '/status' or '/pages/*'")
    return pattern


CHALLENGE = (b"www-authenticate", b'Bearer realm="definable"')
"""RFC 9110, 11.6.1: a 401 says how to authenticate."""


ASK_AGAIN = (b"retry-after", b"5")
"""Seconds."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that a caller may use who may only read."""


def scope_of(request: Request) -> str:
    """What a caller must be allowed to do for a request."""
    return "read" if request.scope["type"] == "http" and request.method in READING else "run"


FAILED_LOGINS = Rate(20, 60.0)
"""Of one address; beyond it the answer to a failed one is held back for the seconds until it would be within it."""

MAX_HELD = 10
"""Answers to failed logins of one address that are held back at once; beyond it nobody from there is judged."""


class Door:
    """Lets callers in: says who they are, and that they do not call too often.

    Args:
        refusals: Where it is noted who is not let in.
        rate: Of each caller, and of each address where nobody is asked who he is; None for any.
        address_rate: Of each address, whoever calls from there; None for any.
    """

    def __init__(self, refusals: RefusalLog, rate: Rate | None = None, address_rate: Rate | None = None) -> None:
        self._refusals = refusals
        self._rate = rate
        self._address_rate = address_rate
        self.limits: Limits = MemoryLimits()
        """Set where replicas share them."""
        self._failed = MemoryLimits()
        self._held: Counter[str] = Counter()
        """Answers to failed logins that are held back, by address."""
        self.is_limited: bool = rate is not None or address_rate is not None
        """Whether there is anything to ask of callers whom no provider judges."""

    async def admit(
        self, provider: AuthProvider | None, request: Request, max_body: int, scope: str
    ) -> AuthContext | None:
        """Who is calling; None where nobody is asked.

        Args:
            provider: Decides; None lets everybody in.
            request: A request, or the handshake of a WebSocket.
            max_body: Bytes that its body may have, if the provider judges it.
            scope: What the caller must be allowed to do.

        Raises:
            Problem: 401 when it cannot be established, 403 when the caller may not do this, 429 when it calls too
                often, 500 when the provider fails, 503 when it cannot say for now, and those of a body that is judged.
            ClientGone: The client went away before its body was complete.
        """
        client = request.client
        address = "" if client is None else address_key(client[0])
        if self._address_rate is not None and address:
            await self._count(f"address~{address}", self._address_rate, request)
        caller = None if provider is None else await self._judged(provider, request, max_body, scope, address)
        rate = self._rate if caller is None or caller.rate is None else caller.rate
        if rate is not None and (caller is not None or address):
            await self._count(f"anybody~{address}" if caller is None else caller.namespace, rate, request)
        return caller

    async def _judged(
        self, provider: AuthProvider, request: Request, max_body: int, scope: str, address: str
    ) -> AuthContext:
        if self._held and self._held[address] >= MAX_HELD:
            raise too_often(FAILED_LOGINS.interval, "too many failed logins from this address: try again later")
        has_body = request.scope["type"] == "http" and needs_body(provider)
        body = await request.body(max_body) if has_body else b""
        asked = auth_request(request, body)
        try:
            context = await authenticate(provider, asked)
        except Problem:
            raise
        except AuthUnavailable as error:
            why = f"{error}: try again later"
            self._refusals.refused(named(request), client_of(request), lambda: why)
            raise Problem(503, "who is calling cannot be found out now: try again later", headers=[ASK_AGAIN]) from None
        except Exception:
            self._refusals.failed(provider)
            raise Problem(500, "authentication failed on our side") from None
        if context is None:
            self._refusals.refused(named(request), client_of(request), lambda: why_refused(provider, asked))
            await self._hold_back(address)
            raise Problem(401, "missing or wrong credentials", headers=[CHALLENGE])
        if not context.may(scope):
            why = f"{context.user_id!r} lacks the scope {scope!r}"
            self._refusals.refused(named(request), client_of(request), lambda: why)
            raise Problem(403, f"this caller lacks the scope {scope!r}")
        return context

    async def _hold_back(self, address: str) -> None:
        """Hold back the answer to a failed login, where there were many from its address.

        Who has the right credentials is not slowed, also from there: a proxy's address may be everybody's.
        """
        seconds = await self._failed.take(address, FAILED_LOGINS)
        if not seconds:
            return
        self._held[address] += 1
        try:
            await anyio.sleep(seconds)
        finally:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]

    async def _count(self, key: str, rate: Rate, request: Request) -> None:
        early = await self.limits.take(key, rate)
        if early:
            why = f"more than {rate.count} requests in {rate.period:g} s"
            self._refusals.refused(named(request), client_of(request), lambda: why)
            raise too_often(early, f"{why}: try again later")


def too_often(seconds: float, detail: str) -> Problem:
    """The problem of a caller who calls too often (RFC 6585, 4).

    Args:
        seconds: After which it may call again.
        detail: Why.
    """
    return Problem(429, detail, headers=[(b"retry-after", b"%d" % max(1, ceil(seconds)))])


@lru_cache(1_000)
def address_key(address: str) -> str:
    """What a client cannot change at will: an IPv4 address, or the network of an IPv6 one (RFC 4291, 2.5.4)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))


def auth_request(request: Request, body: bytes) -> AuthRequest:
    """What an auth provider may look at."""
    scope = request.scope
    method = scope.get("method", "GET")  # of a WebSocket's handshake
    headers: Any = request.headers
    url: Any = request.url  # both are made when they are asked for
    query: Any = request.parameters
    return AuthRequest("http", headers=headers, method=method, url=url, path=scope["path"], query=query, body=body)


def named(request: Request) -> str:
    """A request, for the log."""
    return f"{request.scope.get('method', 'WebSocket')} {request.path!r}"


def client_of(request: Request) -> str:
    """Where a request came from, for the log."""
    client = request.client
    return "an unknown address" if client is None else client[0]


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


def may_see(auth: AuthContext | None, record: RunRecord) -> bool:
    """Whether a caller may see and cancel a run.

    On an open agent everybody may, else the caller who asked for it and an admin. A run that no caller asked for is
    visible to the user for whom an event's handler or a cron job made it.
    """
    if auth is None or auth.is_admin:
        return True
    if record.namespace:
        return record.namespace == auth.namespace
    return record.user_id == auth.user_id
