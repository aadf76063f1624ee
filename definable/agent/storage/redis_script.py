"""A Lua script that a Redis server runs whole, known to it by its digest."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any, Generic, TypeVar

Answer_co = TypeVar("Answer_co", covariant=True)


class Script(Generic[Answer_co]):
    """A script.

    Args:
        source: In Lua 5.1 (https://redis.io/docs/latest/develop/programmability/eval-intro/).
        read: What its answer says; raises `ValueError` at one that is not of its shape.
    """

    __slots__ = ("digest", "read", "source")

    def __init__(self, source: str, read: Callable[[Any], Answer_co]) -> None:
        self.source: str = source
        self.digest: str = sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.read: Callable[[Any], Answer_co] = read
