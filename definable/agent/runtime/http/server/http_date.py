"""The `Date` header of a response (RFC 9110, section 6.6.1), made once a second."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache


def date_line() -> bytes:
    """The whole header line."""
    return _line_of(int(time.time()))


@lru_cache(maxsize=1)
def _line_of(second: int) -> bytes:
    return b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
