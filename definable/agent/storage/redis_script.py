"""A Lua script that a Redis server runs whole, known to it by its digest."""

from __future__ import annotations

from hashlib import sha1


class Script:
    """A script.

    Args:
        source: In Lua 5.1 (https://redis.io/docs/latest/develop/programmability/eval-intro/).
    """

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source: str = source
        self.digest: str = sha1(source.encode(), usedforsecurity=False).hexdigest()
