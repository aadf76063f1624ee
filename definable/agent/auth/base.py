"""The `AuthProvider` protocol, what a provider is asked and what it answers, and the log of those it refuses.

`authenticate` is the one way to ask a provider, for the HTTP endpoints, the interfaces and `CompositeAuth`; a provider
that raises denies. It may have these attributes beside its own `authenticate`:

- `platforms`: where it speaks, a set such as `{"http"}` or `{"telegram", "discord"}`; None, or no such attribute: it
  speaks everywhere. It is not asked elsewhere: HTTP is closed then, a chat is open.
- `speaks_on(platform)`: the same as a method, for what a set cannot say.
- `explain(request)`: says for the log why a caller was refused, with no secret in it.
- `needs_body = True`: it judges the raw body, which must be in `AuthRequest.body` before it is asked.
- `has_limits = True`: its `AuthContext`s may have a `rate`, which replicas share.
- `open()`: an async context, open while a service uses the provider: for its clients and tasks. One that is set while
  the service runs is used without it.
- `immediate = True`: its sync `authenticate` neither waits nor blocks, so it is called on the event loop; a worker
  thread would cost more than the answer.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import quote

import anyio

from definable.concurrency.call import call_user
from definable.concurrency.logs import logger_named
from definable.concurrency.rate_limits import Rate
from definable.errors import ConfigurationError
from definable.frozen import frozen, made_when_asked_for

logger: logging.Logger = logger_named(__name__)

CHAT_NAMESPACE = "chat~"
"""What the ids of chats' sessions begin with, unless their user is somebody whom other platforms know as well."""

NAMESPACED = re.compile("chat~|(?:service|user|sender)~[^~]*~")
"""What the ids of callers' and chats' sessions begin with: a token's `sub` may be any text, also that of a key, of a
sender or of a chat's user.
"""


@frozen
class AuthRequest:
    """What a provider may look at.

    Example:
        A secret in the URL, as senders have it that can sign nothing:

            class Token:
                platforms = frozenset({"http"})

                def authenticate(self, request: AuthRequest) -> AuthContext | None:
                    fits = hmac.compare_digest(request.query.get("token", "").encode(), SECRET)
                    return AuthContext("sender") if fits else None
    """

    platform: str = "http"
    """`"http"`, `"telegram"`, `"discord"`, or a custom interface's own."""
    user_id: str | None = None
    """The platform's; None for HTTP."""
    username: str | None = None
    chat_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of HTTP; looked up case-insensitively."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of a message: the platform's own."""
    method: str = ""
    """Of HTTP, in upper case; `"GET"` for the handshake of a WebSocket."""
    url: str = ""
    """Of HTTP: the whole URL as it was sent, with scheme, host and raw query: what Twilio, HubSpot and others sign."""
    path: str = ""
    """Of HTTP, decoded."""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of HTTP: the parameters of the query, decoded; of a repeated one, the last."""
    body: bytes = b""
    """Of HTTP: the raw request body, for a provider that says `needs_body = True`."""

    def header(self, name: str) -> str | None:
        """A header's value, whatever the case of its name; None when it is absent."""
        value = self.headers.get(name)
        if value is not None:
            return value
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


def evaluated(value: Any) -> Any:
    """A value, or that of a function that gives it."""
    return value() if callable(value) else value


# Few providers look at them, and a webhook's cost is measured in microseconds.
made_when_asked_for(AuthRequest, "url", evaluated, "Of HTTP: the whole URL as it was sent, with its raw query.")
made_when_asked_for(AuthRequest, "query", evaluated, "Of HTTP: the query's parameters; of a repeated one, the last.")


@dataclass(frozen=True, slots=True)
class AuthContext:
    """Who the caller is."""

    user_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else is known of the caller, such as a token's claims: runs have it as `context.auth.metadata`. On a durable
    bus, JSON."""
    may_act_for_others: bool = False
    """Whether the caller may name another user that it acts for, as a service with an API key does."""
    scopes: frozenset[str] | None = None
    """What the caller may do: `"run"`, `"read"`, `"admin"` (everything, with everybody's sessions and runs); None: all
    but `"admin"`."""
    rate: Rate | None = field(default=None, compare=False, repr=False)
    """How often the caller may call, where it is not what `serve(rate_limit=...)` says."""

    @property
    def is_admin(self) -> bool:
        """Whether the caller sees everybody's sessions and runs."""
        return self.scopes is not None and "admin" in self.scopes

    def may(self, scope: str) -> bool:
        """Whether the caller has a scope."""
        return self.scopes is None or scope in self.scopes or "admin" in self.scopes

    @property
    def namespace(self) -> str:
        """Begins the ids of the caller's sessions in the store: the same id of two callers is two sessions."""
        is_sender = self.metadata.get("auth_method") == "signature"
        kind = "service" if self.may_act_for_others else "sender" if is_sender else "user"
        return f"{kind}~{quote(self.user_id, safe='', errors='surrogatepass').replace('~', '%7E')}~"

    def session_key(self, session_id: str) -> str:
        """The id in the store, and for `arun`, of the session that this caller calls `session_id`.

        Args:
            session_id: As the caller has it in requests and answers.

        Example:
            A webhook's handler goes on with a session that its caller began with `POST /run`:

                return {"input": "go on", "session_id": event.raw.auth.session_key("trip")}
        """
        return self.namespace + session_id


def platform_identity(platform: str, user_id: str) -> str:
    """The user id of a messaging platform's user: `telegram:42`."""
    return f"{platform}:{user_id}"


@runtime_checkable
class AuthProvider(Protocol):
    """Decides who a caller is.

    A provider may say where it speaks with an attribute `platforms`, such as `{"http"}`. Without it, or with None, it
    is asked everywhere. A chat whose platform `agent.auth` does not speak for is open to everybody, and serving warns
    of it; an HTTP endpoint is never open for that reason. `definable/agent/auth/base.py` names the other attributes.
    """

    def authenticate(self, request: AuthRequest) -> AuthContext | Awaitable[AuthContext | None] | None:
        """The caller's identity, or None when it cannot be established; sync or async."""
        ...


def is_provider(candidate: object) -> bool:
    """Whether something can be asked who a caller is: an object, and not its class, with `authenticate`."""
    return not isinstance(candidate, type) and callable(getattr(candidate, "authenticate", None))


MAX_IMMEDIATE_BODY = 1024 * 1024
"""Bytes; to hash this many takes about half a millisecond, and more should not hold up the event loop."""


def needs_body(provider: AuthProvider) -> bool:
    """Whether the body must be read before the provider is asked."""
    return getattr(provider, "needs_body", False) is True


def has_limits(provider: object) -> bool:
    """Whether a provider says of some callers how often they may call."""
    return getattr(provider, "has_limits", False) is True


@asynccontextmanager
async def opened(providers: Iterable[object]) -> AsyncGenerator[None, None]:
    """Have the providers open, each once, while the context is; what is no provider is passed over."""
    async with AsyncExitStack() as stack:
        for provider in {id(each): each for each in providers if is_provider(each)}.values():
            open_provider = getattr(provider, "open", None)
            if callable(open_provider):
                await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", open_provider()))
        yield


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


async def authenticate(provider: AuthProvider, request: AuthRequest) -> AuthContext | None:
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


def wire_bytes(text: str) -> bytes:
    """The bytes of a header's value as they came over the wire: servers decode them from Latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:  # not from the wire
        return text.encode("utf-8", "surrogatepass")


SUMMARY_INTERVAL = 60.0
"""Seconds from the first refusal that was not logged to the line that counts them."""

MAX_CLIENTS = 1_000
"""Callers that are told apart; what comes from others meanwhile is only counted."""

MAX_LINES = 30
"""Refusals that are logged one by one until the next summary."""


class RefusalLog:
    """What operators are told of callers who are not let in: the first refusal of each at once, then a line a minute.

    The HTTP endpoints and the messaging interfaces of one service share one; whoever tries 5,000 keys a second fills
    neither the log nor the memory.
    """

    def __init__(self) -> None:
        self._unlogged: OrderedDict[str, int] = OrderedDict()
        """Refusals of callers that were logged before, since the last summary."""
        self._of_others = 0
        """Refusals of callers that are not in the table."""
        self._lines = 0
        self._pending = anyio.Event()

    def __len__(self) -> int:
        """How many callers are told apart now."""
        return len(self._unlogged)

    def refused(self, what: str, caller: str, reason: Callable[[], str]) -> None:
        """Note that a caller was not let in.

        Args:
            what: What it asked for, such as `POST /run`.
            caller: Tells it from others: an address, or a user of a platform.
            reason: Says why; called only if the line is logged.
        """
        if self._is_due(caller):
            logger.warning("refused %s from %s: %s", what, caller, reason())

    def failed(self, provider: object) -> None:
        """Note that a provider raised: called where its exception is handled."""
        if self._is_due(f"failures of {type(provider).__name__}"):
            logger.exception("the auth provider %r failed; the request is denied", provider)

    async def run(self) -> None:
        """Log a summary a minute while there is something to say, until cancelled; at last of what is left."""
        try:
            while True:
                await self._pending.wait()
                await anyio.sleep(SUMMARY_INTERVAL)
                self.summarise()
        finally:
            self.summarise()

    def summarise(self) -> None:
        """Log how many refusals were not logged, and by whom most; forget callers who were not refused since."""
        count = sum(self._unlogged.values()) + self._of_others
        if count:
            caller = max(self._unlogged, key=lambda each: self._unlogged[each], default=None)
            times = 0 if caller is None else self._unlogged[caller]
            most = f", most from {caller} ({times})" if times else ""
            logger.warning("refused %d more since the last such line%s", count, most)
        self._unlogged = OrderedDict((caller, 0) for caller, times in self._unlogged.items() if times)
        self._of_others = self._lines = 0
        self._pending = anyio.Event()

    def _is_due(self, caller: str) -> bool:
        """Whether this refusal is logged by itself; else it is counted."""
        self._pending.set()
        if caller in self._unlogged:
            self._unlogged[caller] += 1
            return False
        if self._lines >= MAX_LINES or len(self._unlogged) >= MAX_CLIENTS:
            self._of_others += 1
            return False
        self._unlogged[caller] = 0
        self._lines += 1
        return True
