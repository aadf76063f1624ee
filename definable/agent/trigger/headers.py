"""HTTP headers as a mapping whose names have no case (RFC 9110, 5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, overload

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

    @overload
    def get(self, key: str, /) -> str | None: ...

    @overload
    def get(self, key: str, /, default: str | Default) -> str | Default: ...

    def get(self, key: str, /, default: Any = None) -> Any:
        """The value of a header; `default` when it is absent."""
        return self.decoded.get(key, default)

    def __getitem__(self, name: str) -> str:
        return self.decoded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.decoded

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
