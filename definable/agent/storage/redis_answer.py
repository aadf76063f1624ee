"""What Redis may answer, checked: each reader takes an answer as coredis hands it out, and returns what it says.

A server behind a proxy that drops or mixes up answers, or something else on its port, may answer anything. Whatever is
not of the shape that was asked for raises `ValueError` here, and `RedisLink` makes the connection anew: after one
answer that belongs to another question, so do all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

Value = TypeVar("Value")


def anything(answer: Any) -> Any:
    """Any answer, as it is."""
    return answer


def nothing(answer: Any) -> None:
    """No answer."""
    if answer is not None:
        raise ValueError("nothing was expected")


def integer(answer: Any) -> int:
    """A number."""
    if type(answer) is not int:
        raise ValueError("a number was expected")
    return answer


def data(answer: Any) -> bytes:
    """A string of bytes."""
    if not isinstance(answer, bytes):
        raise ValueError("a string was expected")
    return answer


def optional_data(answer: Any) -> bytes | None:
    """A string of bytes, or none."""
    return None if answer is None else data(answer)


def items(answer: Any, count: int | None = None) -> Sequence[Any]:
    """A list, of a certain length where one is given."""
    if not isinstance(answer, list | tuple):
        raise ValueError("a list was expected")
    found = cast("Sequence[Any]", answer)
    if count is not None and len(found) != count:
        raise ValueError(f"a list of {count} was expected")
    return found


def list_of(read: Callable[[Any], Value]) -> Callable[[Any], list[Value]]:
    """A reader of a list whose items another reader reads."""
    return lambda answer: [read(item) for item in items(answer)]


def stream_entry(answer: Any) -> tuple[bytes, list[bytes]]:
    """An entry of a stream: its id, then names and values of its fields in turns."""
    id, fields = items(answer, 2)
    flat = [data(field) for field in items(fields)]
    if len(flat) % 2:
        raise ValueError("names and values were expected")
    return data(id), flat
