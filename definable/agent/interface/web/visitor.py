"""Signed names of those who have no account: what a cookie, or the page of a frame, brings back; pure."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence

VISITOR_TTL = 365 * 24 * 3600.0
"""Seconds after which a name is of no use any more: browsers keep a cookie for 400 days at most (RFC 6265bis, 5.5)."""

_NAME = re.compile(r"(visitor_[A-Za-z0-9_-]{22})\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


class VisitorNames:
    """Makes names for visitors, and knows those that it made.

    Args:
        secrets: The first signs; those after it are known still.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [hashlib.sha256(b"definable web chat\0" + secret.encode()).digest() for secret in secrets]

    def new(self, now: float) -> str:
        """The name of a new visitor, signed.

        Args:
            now: Unix seconds.
        """
        text = f"visitor_{secrets.token_urlsafe(16)}.{int(now)}"
        return f"{text}.{_signature(self._keys[0], text)}"

    def visitor_of(self, name: str, now: float) -> str | None:
        """The id of the visitor whose name it is; None where nobody here has signed it, or that was too long ago.

        Args:
            name: As the client sent it.
            now: Unix seconds.
        """
        found = _NAME.fullmatch(name)
        if found is None or not -60.0 <= now - int(found[2]) <= VISITOR_TTL:
            return None
        text = f"{found[1]}.{found[2]}"
        known = [hmac.compare_digest(_signature(key, text), found[3]) for key in self._keys]
        return found[1] if any(known) else None


def _signature(key: bytes, text: str) -> str:
    return urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).decode().rstrip("=")
