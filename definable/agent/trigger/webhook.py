"""Triggers that fire when an HTTP request comes in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from inspect import isroutine
from math import inf
from typing import Any, Literal, TypeAlias, Unpack, cast

from definable.agent.auth.base import AuthProvider, is_provider
from definable.concurrency.call import takes
from definable.errors import ConfigurationError

from .base import BaseTrigger, TriggerEvent, TriggerOptions
from .challenge import Challenge, Preset, challenge_of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

DEFAULT_MAX_BODY = 1024 * 1024
"""Bytes."""

PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A path parameter: one whole segment or a part of it, never a slash, encoded or not."""

Dedupe: TypeAlias = str | Callable[[TriggerEvent], str | None]


class Webhook(BaseTrigger):
    """Fires for requests to one path.

    Args:
        path: The path, with parameters in braces: `/github/{repo}`. A missing leading slash is added; `/github` and
            `/github/` are two paths. A parameter is never empty and never holds a slash, encoded or not.
        method: The HTTP method, or several. GET answers HEAD too, and OPTIONS is answered by itself, unless another
            webhook has it.
        auth: None inherits `agent.auth`; False makes the endpoint public; a provider applies to it alone.
        respond: `"wait"` answers when the work is done; `"accept"` answers 202 at once, and the work goes through the
            event bus.
        dedupe: A header's name, or a callable of the event, whose value names the delivery: within a day a repeat is
            answered `{"status": "duplicate"}` and not run again, or 409 while the first is still handled. What is not
            answered 2xx may come again.
        coalesce: With `respond="accept"`: what a delivery is about, a header's name or a callable of the event, and
            seconds, greater than 0. The first delivery about a thing waits so long, and each that comes meanwhile takes
            its place: the handler gets the last one. It is answered 202 without a run id, since a run is of several
            deliveries then. None or an empty text for what is handled by itself.
        challenge: How a platform's handshake is answered, also with `respond="accept"`, and before `dedupe`: True (any
            known kind), `"slack"`, `"meta"`, `"graph"`, `"zoom"`, `"cloudevents"`, `"echo"`,
            `MetaChallenge(verify_token)`, `ZoomChallenge(secret)`, or a function of the event that returns a `Reply`,
            text, JSON, or None for what is no handshake. A webhook of another method answers handshakes by GET too,
            without auth: platforms do not sign them.
        filter: A function of the event: what it returns nothing true for is answered 200 and dropped before it is
            queued.
        before_accept: With `respond="accept"`: a function of the event, called before it is queued, that returns a
            `Reply` to send instead, or None.
        body: What the body must be: a pydantic model, or any other type that pydantic knows. `event.body` is one then,
            and what is none is answered 422 with the names of the wrong fields.
        max_body: The largest body, in bytes; a larger one is answered 413.
        embeddable: With `method="GET"`: pages of other sites may link to it, load it as a script or an image and show
            it in a frame. For what has no effect and is the same to everybody.
        options: `timeout`, `max_concurrency`, `retries` (a waiting caller waits), `name`: see `TriggerOptions`.

    Raises:
        ConfigurationError: A value is out of its range or cannot be combined.

    Example:
        >>> Webhook("github/{repo}").path
        '/github/{repo}'
    """

    def __init__(
        self,
        path: str,
        *,
        method: str | Iterable[str] = "POST",
        auth: AuthProvider | Literal[False] | None = None,
        respond: Literal["wait", "accept"] = "wait",
        dedupe: Dedupe | None = None,
        coalesce: tuple[Dedupe, float] | None = None,
        challenge: Challenge | Preset | bool | Callable[[TriggerEvent], Any] | None = None,
        filter: Callable[[TriggerEvent], Any] | None = None,
        before_accept: Callable[[TriggerEvent], Any] | None = None,
        body: Any = None,
        max_body: int = DEFAULT_MAX_BODY,
        embeddable: bool = False,
        **options: Unpack[TriggerOptions],
    ) -> None:
        super().__init__(**options)
        self.path: str = checked_path(path)
        self.methods: tuple[str, ...] = checked_methods(method)
        self.method: str = self.methods[0]
        if respond not in ("wait", "accept"):
            raise ConfigurationError(f"Webhook(respond={respond!r}): 'wait' or 'accept'")
        if auth is not None and auth is not False and not is_provider(auth):
            raise ConfigurationError(f"Webhook(auth={auth!r}): a provider, False for public, None for the agent's")
        if dedupe is not None and not is_name(dedupe):
            raise ConfigurationError(f"Webhook(dedupe={dedupe!r}): a header's name, or a callable of the event")
        if max_body < 0:
            raise ConfigurationError(f"Webhook(max_body={max_body!r}): bytes, 0 or more")
        self.auth: AuthProvider | Literal[False] | None = auth
        self.respond = respond
        self.dedupe = dedupe
        self.coalesce: tuple[Dedupe, float] | None = checked_coalesce(coalesce, respond)
        self.challenge: Challenge | Callable[[TriggerEvent], Any] | None = challenge_of(challenge)
        for name, function in (("filter", filter), ("before_accept", before_accept)):
            if function is not None and not takes(function, 1):
                raise ConfigurationError(f"Webhook({name}={function!r}): a function of the event")
        if before_accept is not None and respond != "accept":
            raise ConfigurationError("Webhook(before_accept=...) needs respond='accept': else the handler can reply")
        self.filter = filter
        self.before_accept = before_accept
        self.answers_early: bool = not (filter is before_accept is None)
        """Whether something is asked before a delivery counts as one."""
        if embeddable and self.methods != ("GET",):
            raise ConfigurationError(
                "Webhook(embeddable=True) needs method='GET': other sites' pages would have effects"
            )
        self.max_body = max_body
        self.embeddable = embeddable
        self.body = body
        self._validate: Callable[[Any], Any] | None = None if body is None else validator(body)

    @cached_property
    def source(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - a property, made once
        return f"{'|'.join(self.methods)} {self.path}"

    def source_of(self, method: str) -> str:
        """The source of a request's event; a HEAD that nobody wanted is a GET."""
        if len(self.methods) == 1:
            return self.source
        return f"{method if method in self.methods else 'GET'} {self.path}"

    def checked_body(self, body: Any) -> Any:
        """A parsed body as `Webhook(body=...)` wants it.

        Raises:
            pydantic.ValidationError: It is another one.
        """
        return body if self._validate is None else self._validate(body)


def is_name(dedupe: object) -> bool:
    """Whether something names deliveries: a header's name, or a callable of the event."""
    return callable(dedupe) or (isinstance(dedupe, str) and dedupe != "")


def checked_coalesce(coalesce: object, respond: str) -> tuple[Dedupe, float] | None:
    """What `Webhook(coalesce=...)` says.

    Raises:
        ConfigurationError: It is no name of deliveries and seconds, or senders wait for what comes of them.
    """
    if coalesce is None:
        return None
    parts: tuple[Any, ...] = cast("tuple[Any, ...]", coalesce) if isinstance(coalesce, tuple) else ()
    about, seconds = parts if len(parts) == 2 else ("", 0)
    if not is_name(about) or not isinstance(seconds, int | float) or not 0 < seconds < inf:
        raise ConfigurationError(
            f"Webhook(coalesce={coalesce!r}): a header's name or a callable of the event, and seconds: such as "
            "(lambda event: event.body['number'], 5.0)"
        )
    if respond != "accept":
        raise ConfigurationError("Webhook(coalesce=...) needs respond='accept': else each sender waits for its own")
    return about, seconds


def checked_methods(method: object) -> tuple[str, ...]:
    """A webhook's methods, in upper case, each once.

    Raises:
        ConfigurationError: One is unknown, or there is none.
    """
    is_several = isinstance(method, Iterable) and not isinstance(method, str)
    several: list[Any] = list(cast("Iterable[Any]", method)) if is_several else [method]
    methods = tuple(dict.fromkeys(str(each).upper() for each in several))
    if not methods or not METHODS.issuperset(methods):
        raise ConfigurationError(f"Webhook(method={method!r}): one or several of {', '.join(sorted(METHODS))}")
    return methods


def validator(kind: Any) -> Callable[[Any], Any]:
    """What makes a value of a type of a parsed body.

    Raises:
        ConfigurationError: It is no type that pydantic knows.
    """
    from pydantic import PydanticUserError, TypeAdapter  # heavy, and few webhooks have one

    if isroutine(kind):  # pydantic would call it with the body
        raise ConfigurationError(f"Webhook(body={kind!r}): a pydantic model, or a type that it knows, not a function")
    try:
        adapter = TypeAdapter(kind)
        if not adapter.pydantic_complete:  # a name that stands for no type yet: every delivery would fail
            adapter.rebuild()
        return adapter.validate_python
    except (PydanticUserError, NameError) as error:
        raise ConfigurationError(
            f"Webhook(body={kind!r}): a pydantic model, or a type that it knows: {error}"
        ) from None


def checked_path(path: str) -> str:
    """A webhook's path with its leading slash.

    Raises:
        ConfigurationError: The path cannot be one.
    """
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"Webhook({path!r}): a path is a string")
    if not path.startswith("/"):
        path = f"/{path}"
    if re.search(r"[\s?#\\\x00-\x1f]|//|/\.\.?(/|$)", path):
        raise ConfigurationError(f"Webhook({path!r}): a path without white space, '?', '#', '//' and dot segments")
    if set("{}") & set(PARAMETER.sub("", path)):
        raise ConfigurationError(f"Webhook({path!r}): a path parameter is a name in braces, such as {{repo}}")
    names = PARAMETER.findall(path)
    if len(names) != len(set(names)):
        raise ConfigurationError(f"Webhook({path!r}): every path parameter needs a name of its own")
    return path
