"""What every trigger is, and what it hands to its handler.

Webhooks, cron jobs and event triggers derive from `BaseTrigger`; `runtime/dispatch.py` calls the handler with a
`TriggerEvent` and acts on what it returns.

A handler's name, the same in every process of its program: a durable bus keeps it over restarts and replicas.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from os.path import basename, splitext
from typing import Any, TypeAlias, cast
from urllib.parse import quote

from definable.agent.random_id import random_id
from definable.errors import ConfigurationError
from definable.frozen import frozen, made_when_asked_for

from .content import json_document, text_of
from .headers import Headers


def qualified_name(handler: Callable[..., Any] | None) -> str:
    """A handler's module and qualified name; of a `partial` its function's, of a callable object its class's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    name: str = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{program_name(getattr(handler, '__module__', ''))}.{name}"


def program_name(module: str) -> str:
    """A module's name; for `__main__` the one by which `definable serve` and others import it."""
    if module != "__main__":
        return module
    main = sys.modules[module]
    spec: ModuleSpec | None = getattr(main, "__spec__", None)
    if spec is not None:  # python -m
        return spec.name.removesuffix(".__main__")
    file: str | None = getattr(main, "__file__", None)
    return module if file is None else splitext(basename(file))[0]


Handler: TypeAlias = Callable[..., Any]
"""A function of one `TriggerEvent`, sync or async."""


HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class JSONObject(dict[str, Any]):
    """An object that is there already, for programs that await it."""

    def __await__(self) -> Generator[Any, Any, dict[str, Any]]:
        return dict(self)
        yield  # what makes a generator of it


class JSONArray(list[Any]):
    """An array that is there already, for programs that await it."""

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        return list(self)
        yield  # what makes a generator of it


AWAITABLE: dict[type[Any], type[Any]] = {dict: JSONObject, list: JSONArray}
"""Requests of the original library are Starlette's, whose `json()` is awaited."""


@frozen
class RawRequest:
    """The HTTP request behind a webhook's event; valid after the response was sent."""

    method: str
    path: str
    path_params: Mapping[str, str]
    query: Mapping[str, str]
    """Query parameters; of a repeated one, the last."""
    headers: Headers
    body: bytes
    """As it was before it was compressed, where it came with a `Content-Encoding`."""
    client: tuple[str, int] | None
    """Address and port of the peer."""
    auth: Any = None
    """The `AuthContext` of the caller; None on a public endpoint."""
    scheme: str = "http"
    """`"http"` or `"https"`."""
    raw_path: bytes = b""
    """The path as it was sent, percent-encoded."""
    query_string: str = ""
    """The query as it was sent, percent-encoded, without its question mark."""

    @property
    def url(self) -> str:
        """The whole URL as it was sent: what Twilio and others sign."""
        host = self.headers.get("host", "")
        return request_url(self.scheme, host, self.raw_path, self.path, self.query_string)

    @property
    def query_params(self) -> Mapping[str, str]:
        """Another name of `query`."""
        return self.query

    @property
    def text(self) -> str:
        """The body as text, by the charset that the sender names, UTF-8 otherwise.

        What is no character in this charset becomes U+FFFD.
        """
        return text_of(self.headers.get("content-type", ""), self.body)

    def json(self) -> Any:
        """The body's value as JSON, whatever its content type; an object or array may be awaited too.

        Raises:
            ValueError: It is not JSON.
        """
        value: object = json_document(self.body)
        kind = AWAITABLE.get(type(value))
        return value if kind is None else kind(value)


@frozen
class TriggerEvent:
    """What a trigger hands to its handler."""

    body: Any = None
    """Parsed JSON or form body, or the event's data; None when absent, and for a body that is neither: its bytes are
    `raw.body`, its text `raw.text`."""
    headers: Headers | None = None
    """Of a webhook: a dict, looked up case-insensitively. Of a run that was accepted for later, those that name its
    trace. None of every other event."""
    source: str = ""
    """`"POST /github"`, `"cron(0 9 * * *)"` or `"event(user_signup)"`."""
    timestamp: float = field(default_factory=time.time)
    """Unix seconds; of a cron firing the nominal time. Now, of an event that is made by hand."""
    raw: RawRequest | None = None
    """Of a webhook: the request."""
    id: str = field(default_factory=random_id)
    """The same over all attempts."""
    attempt: int = 1
    """1 for the first, then one more for each retry."""


def request_url(scheme: str, host: str, raw_path: bytes | None, path: str, query_string: str) -> str:
    """The URL of a request as it was sent.

    Args:
        scheme: `"https"`, say.
        host: With the port, as the `Host` header has it.
        raw_path: The path as it was sent; empty or None where the server does not say.
        path: The decoded path.
        query_string: The query as it was sent.
    """
    sent = raw_path.decode("latin-1") if raw_path else quote(path)
    return f"{scheme}://{host}{sent}{f'?{query_string}' if query_string else ''}"


def decoded(headers: Mapping[str, str]) -> Headers:
    """Headers as handlers get them, from those of a request or from a dict of one's own."""
    return headers if headers.__class__ is Headers else Headers(headers)  # pyright: ignore[reportReturnType]


# Most handlers ask for no headers, and decoding them is a tenth of what a webhook costs.
made_when_asked_for(RawRequest, "headers", decoded, "The request's; looked up case-insensitively.")
made_when_asked_for(TriggerEvent, "headers", decoded, "Of a webhook: a dict, looked up case-insensitively.")


@dataclass(frozen=True, slots=True)
class Reply:
    """A webhook handler's own HTTP response, sent as is; from other triggers' handlers it is ignored.

    Raises:
        ConfigurationError: `status` is no final HTTP status, or `headers` are none.

    Example:
        >>> Reply("hi", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]).status
        200
    """

    body: Any = None
    """`str` goes out as text, `bytes` as they are, None as an empty body, anything else as JSON."""
    status: int = 200
    headers: Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] | None = None
    """A mapping, or pairs of name and value. A repeated name stands in several pairs, or has a list of values."""

    def __post_init__(self) -> None:
        status: Any = self.status
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
            raise ConfigurationError(f"Reply(status={status!r}): a final HTTP status is an integer from 200 to 599")
        headers: Any = self.headers
        if headers is None:
            return
        if not isinstance(headers, Mapping) and (
            not isinstance(headers, list | tuple) or not all(map(is_pair, cast("Sequence[Any]", headers)))
        ):
            raise ConfigurationError(f"Reply(headers={headers!r}): a mapping, or a list of (name, value) pairs")
        for name, value in self._pairs():
            if not can_be_sent(name, value):
                raise ConfigurationError(
                    f"Reply(headers={{{name!r}: {value!r}}}): a header is a name and a text of one line, in Latin-1"
                )

    def header_pairs(self) -> Iterable[tuple[str, str]]:
        """The headers as pairs of name and value."""
        return ((name, str(value)) for name, value in self._pairs())

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        headers: Any = self.headers or ()
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            if isinstance(value, list | tuple):
                yield from ((name, each) for each in cast("Sequence[Any]", value))
            else:
                yield name, value


def is_pair(header: Any) -> bool:
    """Whether something is a name and a value."""
    return isinstance(header, list | tuple) and len(cast("Sequence[Any]", header)) == 2


def can_be_sent(name: Any, value: Any) -> bool:
    """Whether a name and a value are a header (RFC 9110, 5.1 and 5.5)."""
    if not isinstance(name, str) or not isinstance(value, str | int | float):
        return False
    return bool(HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(str(value)))


class BaseTrigger(ABC):
    """What all triggers have in common; a trigger of your own defines `source`, or its alias `name`.

    Args:
        timeout: Seconds that handler and run may take together; None for no limit.
        max_concurrency: How many of this trigger's events are handled at once; None for no limit of its own.
        retries: How often a failed event is tried again, with exponential backoff and jitter; off by default.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(self, *, timeout: float | None = None, max_concurrency: int | None = None, retries: int = 0) -> None:
        if timeout is not None and not timeout > 0:
            raise ConfigurationError(f"timeout={timeout!r}: seconds, greater than 0, or None")
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency={max_concurrency!r}: at least 1, or None for no limit")
        if retries < 0:
            raise ConfigurationError(f"retries={retries!r}: 0 or more")
        self.timeout = timeout
        self.max_concurrency = max_concurrency
        self.retries = retries
        self.handler: Handler | None = None
        """Set by `Agent.on`."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.name is not BaseTrigger.name and cls.source is BaseTrigger.source:
            setattr(cls, "source", property(lambda self: self.name))  # noqa: B010 - it is declared read-only

    @property
    @abstractmethod
    def source(self) -> str:
        """Where this trigger's events come from, as `TriggerEvent.source` says it."""

    @property
    def name(self) -> str:
        """The same as `source`."""
        return self.source

    @property
    def key(self) -> str:
        """Names the trigger over restarts and replicas: its source and its handler's qualified name."""
        return f"{self.source}:{qualified_name(self.handler)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source}>"
