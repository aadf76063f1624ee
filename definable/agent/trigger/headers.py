"""HTTP headers as a mapping whose names have no case (RFC 9110, 5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

Default = TypeVar("Default")


class Headers(Mapping[str, str]):
    """Immutable headers, looked up case-insensitively; repeated ones are joined by a comma (RFC 9110, 5.2).

    Args:
        items: Names and values, as an ASGI scope has them. Most are never asked for, so they are decoded when one is.
    """

    __slots__ = ("_decoded", "_items")

    def __init__(self, items: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._items = tuple(items)
        self._decoded: dict[str, str] | None = None

    @property
    def _values(self) -> dict[str, str]:
        values = self._decoded
        if values is None:
            values = {}
            for raw_name, raw_value in self._items:
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                values[name] = f"{values[name]}, {value}" if name in values else value
            self._decoded = values
        return values

    @overload
    def get(self, key: str, /) -> str | None: ...

    @overload
    def get(self, key: str, /, default: str | Default) -> str | Default: ...

    def get(self, key: str, /, default: Any = None) -> Any:
        """The value of a header; `default` when it is absent. `Mapping`'s own raises and catches an error for that."""
        return self._values.get(key.lower(), default)

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"
