"""The HTTP request behind a webhook's event, and the response of a handler's own. Pure."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, overload
from urllib.parse import quote

from definable.errors import ConfigurationError
from definable.frozen import frozen, made_when_asked_for

from .content import json_document, text_of

Default = TypeVar("Default")

COMMA = ", "
"""Between the values of a repeated header (RFC 9110, 5.2)."""

COOKIES = "; "
"""Between cookies, which a client of HTTP/2 may send in a header each (RFC 9113, 8.2.3)."""


class Headers(dict[str, str]):
    """Headers as a dict that finds a name whatever its case; it is read-only, and `dict(headers)` is a copy.

    Names are in lower case, in the order in which they came in; repeated ones are joined by a comma (RFC 9110, 5.2),
    cookies by a semicolon (RFC 9113, 8.2.3).

    Args:
        items: Names and values: a mapping of text, or pairs of bytes, as an ASGI scope has them.

    Example:
        >>> Headers({"X-GitHub-Event": "push"})["x-github-event"]
        'push'
    """

    __slots__ = ()

    def __init__(self, items: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = ()) -> None:
        if isinstance(items, UndecodedHeaders):
            super().__init__(items.decoded)
        elif isinstance(items, Mapping):
            super().__init__(joined(cast("Mapping[str, str]", items).items()))
        else:
            super().__init__(joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in items))

    @overload
    def get(self, key: str, /) -> str | None: ...

    @overload
    def get(self, key: str, /, default: str | Default) -> str | Default: ...

    def get(self, key: str, /, default: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The value of a header; `default` when it is absent."""
        return super().get(key.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - it cannot be changed
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        return f"Headers({super().__repr__()})"

    def __reduce__(self) -> tuple[type[Headers], tuple[dict[str, str]]]:
        return Headers, (dict(self),)

    def copy(self) -> dict[str, str]:
        """A dict that can be changed, of names in lower case."""
        return dict(self)

    if not TYPE_CHECKING:  # a type checker would call these no dict's

        def _refuse(self, *_: Any, **__: Any) -> NoReturn:
            """Refused: headers are read-only.

            Raises:
                TypeError: Always.
            """
            raise TypeError("headers are read-only: change a copy, dict(event.headers)")

        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse


class UndecodedHeaders(Mapping[str, str]):
    """The headers of a request that nobody may ever ask for: decoded when somebody does.

    Args:
        items: Names and values, as an ASGI scope has them.
    """

    __slots__ = ("_decoded", "_items")

    def __init__(self, items: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._items = items
        self._decoded: Headers | None = None

    @property
    def decoded(self) -> Headers:
        """The same headers, decoded."""
        if self._decoded is None:
            self._decoded = Headers(self._items)
        return self._decoded

    def get(self, key: str, /, default: Any = None) -> Any:  # of its own: `Mapping`'s raises and catches a KeyError
        return self.decoded.get(key, default)

    def __getitem__(self, name: str) -> str:
        return self.decoded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.decoded)

    def __len__(self) -> int:
        return len(self.decoded)


def joined(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Values by their names in lower case; those of one name are joined by a comma, cookies by a semicolon."""
    values: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in items:
        name = name.lower()
        if name in values:
            repeated.setdefault(name, [values[name]]).append(value)
        else:
            values[name] = value
    for name, found in repeated.items():
        values[name] = (COOKIES if name == "cookie" else COMMA).join(found)
    return values


def decoded(headers: Mapping[str, str]) -> Headers:
    """Headers as handlers get them, from those of a request or from a dict of one's own."""
    return headers if headers.__class__ is Headers else Headers(headers)  # pyright: ignore[reportReturnType]


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


# Most handlers ask for no headers, and decoding them is a tenth of what a webhook costs.
made_when_asked_for(RawRequest, "headers", decoded, "The request's; looked up case-insensitively.")


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


HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


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
    """`str` goes out as text, `bytes` as they are, None as an empty body, anything else as JSON. An async function
    writes it as it goes: it gets an async `send(data: bytes)`, and is cancelled when the client leaves."""
    status: int = 200
    headers: Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] | None = None
    """A mapping, or pairs of name and value. A repeated name stands in several pairs, or has a list of values."""

    def __post_init__(self) -> None:
        status, headers = cast("tuple[Any, Any]", (self.status, self.headers))
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
            raise ConfigurationError(f"Reply(status={status!r}): a final HTTP status is an integer from 200 to 599")
        if headers is None:
            return
        if not isinstance(headers, Mapping) and not (isinstance(headers, list | tuple) and all(map(is_pair, headers))):  # pyright: ignore[reportUnknownArgumentType]
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
        headers = cast("Mapping[Any, Any] | Sequence[tuple[Any, Any]]", self.headers or ())
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            values = cast("Sequence[Any]", value if isinstance(value, list | tuple) else (value,))
            yield from ((name, each) for each in values)


def is_pair(header: Any) -> bool:
    """Whether something is a name and a value."""
    return isinstance(header, list | tuple) and len(cast("Sequence[Any]", header)) == 2


def can_be_sent(name: Any, value: Any) -> bool:
    """Whether a name and a value are a header (RFC 9110, 5.1 and 5.5)."""
    if not isinstance(name, str) or not isinstance(value, str | int | float):
        return False
    return bool(HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(str(value)))
