"""A request's body as the handler of a webhook gets it: pure.

The webhook endpoint parses what comes in. The event bus carries the raw bytes alone, so the workers parse once more
(see `runtime/ingress.py`).

Multipart forms (RFC 7578): pure, in linear time, and bounded in what a part's header may hold.

Bodies that were compressed for their way (`Content-Encoding`, RFC 9110, 8.4): pure, bounded in what comes out.
"""

from __future__ import annotations

import re
import zlib
from binascii import a2b_qp
from typing import Any
from urllib.parse import parse_qsl

from definable.agent.trigger.content import (
    UnknownCharset,
    codec_named,
    is_json,
    json_document,
    media_type_and_codec,
    text_of,
)
from definable.server.problem import Problem

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


MAX_PARTS = 1_000
"""Parts of a form."""

MAX_BOUNDARY = 70
"""Characters (RFC 2046, 5.1.1)."""

MAX_PART_HEADER = 8 * 1024
"""Bytes of all header lines of one part."""

MAX_PART_LINES = 16
"""Header lines of one part: three are defined (RFC 7578, 4.8)."""


def multipart_fields(content_type: str, body: bytes) -> dict[str, str | bytes]:
    """A multipart form's fields: text as strings, files as bytes; of a repeated one the last.

    Raises:
        Problem: 400, it is none; 413, it has more than `MAX_PARTS` parts.
    """
    fields: dict[str, str | bytes] = {}
    for part in parts_of(boundary_of(content_type), body):
        name, value = field_of(part)
        fields[name] = value
    return fields


def boundary_of(content_type: str) -> bytes:
    """What separates the parts.

    Raises:
        Problem: 400, the header names none, or one that is too long.
    """
    boundary = options(content_type).get("boundary", "")
    if not 1 <= len(boundary) <= MAX_BOUNDARY:
        raise malformed(f"its boundary must have 1 to {MAX_BOUNDARY} characters")
    return boundary.encode("latin-1", "replace")


def parts_of(boundary: bytes, body: bytes) -> list[bytes]:
    """The parts, each from behind its boundary to before the next.

    Raises:
        Problem: 400, it does not begin or end as it should; 413, there are too many.
    """
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_PARTS + 2)
    end = next((number for number, part in enumerate(parts) if part.startswith(b"--")), None)
    if (len(parts) if end is None else end) > MAX_PARTS:
        raise Problem(413, f"the form has more than {MAX_PARTS:,} parts")
    if end is None:
        raise malformed("it has no end")
    return parts[:end]


def field_of(part: bytes) -> tuple[str, str | bytes]:
    """A part's name and value.

    Raises:
        Problem: 400, its header is malformed or too large.
    """
    padding, begin, _ = part[: MAX_PART_HEADER + 2].partition(b"\r\n")
    end = part.find(b"\r\n\r\n", len(padding), len(padding) + MAX_PART_HEADER)
    if end < 0 and part.endswith(b"\r\n") and len(part) <= MAX_PART_HEADER:
        end = len(part) - 2  # of an empty value some senders write the line end before the next boundary once
    if not begin or padding.strip(b" \t") or end < 0:
        raise malformed(f"a part needs a header, of at most {MAX_PART_HEADER} bytes")
    headers = part_headers(part[len(padding) + 2 : end])
    disposition = options(headers.get("content-disposition", ""))
    if "name" not in disposition:
        raise malformed("a part has no name")
    content = part[end + 4 :]
    if "filename" in disposition:
        return disposition["name"], content
    return disposition["name"], text_of(headers.get("content-type", ""), content)


def part_headers(lines: bytes) -> dict[str, str]:
    """A part's header, by names in lower case.

    Raises:
        Problem: 400, it has too many lines.
    """
    found = lines.split(b"\r\n", MAX_PART_LINES)
    if len(found) > MAX_PART_LINES:
        raise malformed(f"a part has more than {MAX_PART_LINES} header lines")
    pairs = (line.decode("utf-8", "replace").partition(":") for line in found)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def options(header: str) -> dict[str, str]:
    """The parameters of a header such as `Content-Disposition`."""
    # Quart brings it along, so it is loaded where forms come in; an agent without HTTP never needs it.
    from werkzeug.http import parse_options_header

    return parse_options_header(header)[1]


def malformed(why: str) -> Problem:
    """The problem of a body that is no form."""
    return Problem(400, f"the body is not a valid multipart form: {why}")


URLENCODED = "application/x-www-form-urlencoded"

MULTIPART = "multipart/form-data"

MAX_FIELDS = 1_000
"""Fields of a form, and parameters of a query."""

BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
"""A percent sign that stands for itself."""

NOT_ASCII = frozenset({"utf-16", "utf-16le", "utf-16be", "utf-32", "iso-2022-jp"})
"""Codecs in which `&`, `=` and `%` may be parts of other characters."""

MAYBE_JSON = frozenset({"", "text/plain", URLENCODED})
"""Types under which JSON is sent as well: by clients that name none, by AWS SNS, by `curl -d`."""


def parsed(content_type: str, body: bytes) -> Any:
    """A webhook's body as its handler gets it: JSON and forms parsed, None for anything else.

    Of a form's repeated field the last counts, and an uploaded file is its bytes. A JSON object or array under
    `text/plain`, a form's type or none is taken for what it is; so is a form of one field, `payload`, that holds one
    (GitHub, Slack).

    Args:
        content_type: The `Content-Type` header; empty when there is none.
        body: The bytes.

    Raises:
        Problem: 400, it is declared as JSON or as a form and is none; 413, a form has too many fields; 415, its charset
            is not known.
    """
    if not body:
        return None
    media, charset = media_and_charset(content_type)
    if is_json(media):
        return json_value(body, charset)
    if media == MULTIPART:
        return multipart_fields(content_type, body)
    if media in MAYBE_JSON:
        found = json_container(body, charset)
        if found is not None:
            return found
    return form_fields(body, charset) if media == URLENCODED else None


def media_and_charset(content_type: str) -> tuple[str, str | None]:
    """The media type, and Python's codec for the charset, that a `Content-Type` header names; None where it names none.

    Raises:
        Problem: 415, the charset is not known.
    """
    try:
        return media_type_and_codec(content_type)
    except UnknownCharset as unknown:
        raise Problem(415, f"the charset {unknown.args[0][:50]!r} is not understood: send UTF-8") from None


def json_value(body: bytes, charset: str | None = None) -> Any:
    """A JSON document's value.

    Raises:
        Problem: 400, it is none.
    """
    try:
        return json_document(body, charset)
    except UnicodeDecodeError:
        raise Problem(400, f"the body is not {charset or 'UTF-16'}, which its charset says") from None
    except ValueError as error:
        raise Problem(400, f"the body is not valid JSON: {error}") from None


def json_container(body: bytes, charset: str | None) -> Any:
    """The value of a JSON object or array; None where the body is none."""
    if body[:8].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1] not in (b"{", b"[", b""):
        return None
    try:
        value = json_document(body, charset)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None  # pyright: ignore[reportUnknownVariableType] - JSON


def form_fields(body: bytes, charset: str | None) -> Any:
    """An URL-encoded form's fields; of a form with one field `payload` that is JSON, its value.

    Raises:
        Problem: 400, it is not in the charset that it says; 413, it has too many fields.
    """
    fields = form_text(body, charset)
    payload = fields.get("payload", "") if len(fields) == 1 else ""
    if payload[:1] in ("{", "["):
        try:
            return json_document(payload.encode())
        except ValueError:
            pass
    return fields


def form_text(body: bytes, charset: str | None) -> dict[str, str]:
    """An URL-encoded form's fields as they stand; a field `charset` may say how (PayPal), or `_charset_` (HTML)."""
    try:
        return url_decoded(body, charset or "utf-8")
    except UnicodeDecodeError:
        fields = url_decoded(body, "ascii", "replace")
    named = fields.get("charset") or fields.get("_charset_") or ""
    try:
        if not charset:
            return url_decoded(body, codec_named(named))
    except (UnknownCharset, UnicodeDecodeError):
        pass
    raise Problem(400, f"the form is not {charset or named[:50] or 'UTF-8'}: name its charset in Content-Type")


def url_decoded(body: bytes, encoding: str, errors: str = "strict") -> dict[str, str]:
    """The fields of an URL-encoded form or query; of a repeated one the last.

    Raises:
        Problem: 413, there are too many.
        UnicodeDecodeError: It is not in this encoding.
    """
    if body.count(b"&") >= MAX_FIELDS:
        raise Problem(413, f"the form has more than {MAX_FIELDS:,} fields")
    if encoding in NOT_ASCII:
        return dict(parse_qsl(body.decode(encoding, errors), keep_blank_values=True, encoding=encoding, errors=errors))
    fields = [field.partition(b"=") for field in body.split(b"&") if field]
    return {
        unescaped(name).decode(encoding, errors): unescaped(value).decode(encoding, errors) for name, _, value in fields
    }


def unescaped(text: bytes) -> bytes:
    """A name or a value of an URL-encoded form, decoded as far as bytes (https://url.spec.whatwg.org, 5.1).

    `%41` is what quoted-printable writes as `=41`, whose decoder is written in C: it takes a tenth of the time of
    `urllib.parse`, which took 0.4 s for a body of 1 MiB.
    """
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    if BROKEN_ESCAPE.search(text):
        text = BROKEN_ESCAPE.sub(b"%25", text)
    return a2b_qp(text.replace(b"=", b"=3D").replace(b"%", b"="))
