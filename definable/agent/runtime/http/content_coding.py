"""Bodies that were compressed for their way (`Content-Encoding`, RFC 9110, 8.4): pure, bounded in what comes out."""

from __future__ import annotations

import zlib

from .problem import Problem

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""For zlib, by coding: a gzip header (RFC 1952), or a zlib header (RFC 1950)."""

UNCHANGED = ("", "identity")

MAX_MEMBERS = 100
"""Of a gzip file: each costs as much to begin as some kilobytes to read."""

ACCEPT_ENCODING = (b"accept-encoding", b"gzip, deflate")
"""RFC 9110, 15.5.16: a 415 says what would be understood."""


def decoded(coding: str, body: bytes, limit: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        coding: The `Content-Encoding` header; empty when there is none.
        body: The bytes that were sent.
        limit: Bytes that may come out; no more are ever made.

    Raises:
        Problem: 415, the coding is not understood; 413, more would come out; 400, the body is not what it says.
    """
    coding = coding.strip().lower()
    if coding in UNCHANGED or not body:
        return body
    bits = WINDOW_BITS.get(coding)
    if bits is None:
        raise Problem(
            415, f"the Content-Encoding {coding[:50]!r} is not understood: gzip or deflate", headers=[ACCEPT_ENCODING]
        )
    try:
        return _inflated(bits, body, limit)
    except zlib.error as error:
        raise Problem(400, f"the body is not {coding}: {error}") from None


def _inflated(bits: int, body: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(bits)
        part = member.decompress(body, left + 1)
        if len(part) > left:
            raise Problem(413, f"the request body is larger than {limit} bytes")
        parts.append(part)
        left -= len(part)
        if not member.eof:
            raise zlib.error("it is cut off")
        body = member.unused_data
        if not body:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise zlib.error(f"it has more than {MAX_MEMBERS} members")
