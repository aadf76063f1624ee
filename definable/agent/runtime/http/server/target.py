"""The target in a request line (RFC 9112, section 3.2). Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from .refusal import Refused


def origin_form(method: bytes, target: bytes) -> bytes:
    """The path and query of a request target.

    Raises:
        Refused: It is neither a path, nor an absolute http URL, nor the `*` of `OPTIONS`.
    """
    if target.startswith(b"/"):
        return target
    if target == b"*" and method == b"OPTIONS":
        return b"/*"
    try:
        url = urlsplit(target)
    except ValueError:
        raise Refused(400) from None
    if url.scheme.lower() not in (b"http", b"https") or not url.netloc:
        raise Refused(400)
    path = url.path or b"/"
    return path + b"?" + url.query if url.query else path
