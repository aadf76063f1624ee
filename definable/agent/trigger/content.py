"""What the bytes of a request are by their `Content-Type`: text, JSON, a form. Pure, and in linear time.

`RawRequest` and the HTTP endpoints read bodies with it. The webhook endpoint parses what comes in; the event bus
carries the raw bytes alone, so the workers parse once more.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from functools import lru_cache
from math import isfinite
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json

from .multipart import BadContent, multipart_fields

CODECS: dict[str, str] = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii", "ansi_x3.4-1968"), "utf-8"),
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))},
    **{f"iso8859-{part}": f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))},
    **{f"windows-{page}": f"cp{page}" for page in (874, *range(1250, 1259))},
    **{f"cp{page}": f"cp{page}" for page in (874, *range(1250, 1259))},
    **{name: name for name in ("utf-16", "utf-16le", "utf-16be", "utf-32", "koi8-r", "koi8-u", "macintosh", "ibm866")},
    **{name: name for name in ("shift_jis", "euc-jp", "iso-2022-jp", "gbk", "gb2312", "gb18030", "big5", "euc-kr")},
    "latin1": "iso8859-1",
}
"""Python's codecs by the names of charsets that text is sent in (the Encoding Standard has most). No others: some of
Python's take quadratic time (`punycode`), are no charsets (`unicode_escape`), or are looked up without a bound."""

MAX_CACHED = 200
"""Characters of a `Content-Type` header that is worth remembering."""

LARGE_EXPONENT = re.compile(rb"[0-9][eE]\+?[0-9]{2}")

MANY_DIGITS = re.compile(rb"(?<![0-9])[0-9]{200}")
"""This or the other is in every JSON document with a number beyond the range of a float."""


OLDER_JSON = frozenset({"text/json", "application/csp-report"})
"""JSON types without its name or with an older one; the second is of Content Security Policy 2, 4.4."""


class UnknownCharset(LookupError):
    """A charset that text is not taken in; its name is the argument."""


def media_type(content_type: str) -> str:
    """The media type in a `Content-Type` header, in lower case and without parameters; empty when there is none."""
    # Of a header that was sent twice, the first: a proxy may have joined them (RFC 9110, 5.3).
    return content_type.partition(";")[0].partition(",")[0].strip().lower()


def media_type_and_codec(content_type: str) -> tuple[str, str | None]:
    """`media_type` and `codec_of`, remembered where the header is of a usual length.

    Raises:
        UnknownCharset: Text is not taken in this charset.
    """
    if len(content_type) <= MAX_CACHED:
        return _cached_media_type_and_codec(content_type)
    return media_type(content_type), codec_of(content_type)


@lru_cache(maxsize=256)
def _cached_media_type_and_codec(content_type: str) -> tuple[str, str | None]:
    return media_type(content_type), codec_of(content_type)


def is_json(media: str) -> bool:
    """Whether a media type is JSON (RFC 8259, RFC 6839)."""
    return media == "application/json" or media.endswith("+json") or media in OLDER_JSON


def codec_of(content_type: str) -> str | None:
    """Python's codec for the charset that a `Content-Type` header names; None where it names none.

    Raises:
        UnknownCharset: Text is not taken in this charset.
    """
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return codec_named(value.strip().strip("\"'"))
    return None


def codec_named(charset: str) -> str:
    """Python's codec for a charset.

    Raises:
        UnknownCharset: Text is not taken in this charset.
    """
    codec = CODECS.get(charset.lower())
    if codec is None:
        raise UnknownCharset(charset)
    return codec


def text_of(content_type: str, body: bytes) -> str:
    """A body as text, by the charset that its sender names, UTF-8 otherwise, without a byte order mark.

    What is no character in this charset becomes U+FFFD; so does all that is no ASCII in a charset that is not known.
    """
    try:
        codec = codec_of(content_type) or codec_by_mark(body) or "utf-8"
    except UnknownCharset:
        codec = "ascii"
    return body.decode(codec, "replace").removeprefix("\ufeff")


def codec_by_mark(body: bytes) -> str | None:
    """The codec that the byte order mark of UTF-16 at a body's beginning names; None where there is none."""
    return "utf-16" if body.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else None


def json_document(body: bytes, codec: str | None = None) -> Any:
    """A JSON document's value (RFC 8259): in UTF-8 unless `codec` or a byte order mark says otherwise.

    Raises:
        ValueError: It is none. It holds half of a surrogate pair, or a number that is too large for a float, or `NaN`:
            none of them could be sent on as JSON.
    """
    if body.startswith(BOM_UTF8):
        body = body[len(BOM_UTF8) :]
    codec = codec or codec_by_mark(body)
    if codec is not None and codec != "utf-8":
        body = body.decode(codec).removeprefix("\ufeff").encode()
    value = from_json(body, allow_inf_nan=False)
    if LARGE_EXPONENT.search(body) or (len(body) >= 200 and MANY_DIGITS.search(body)):
        check_finite(value)
    return value


def check_finite(value: Any) -> None:
    """Look at each number of a JSON document's value.

    Raises:
        ValueError: One is infinite: as it was written it does not fit into a float.
    """
    kind = value.__class__
    if kind is float:
        if not isfinite(value):
            raise ValueError("a number is larger than a float can be")
    elif kind is dict:
        for each in value.values():
            check_finite(each)
    elif kind is list:
        for each in value:
            check_finite(each)


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
        BadContent: 400, it is declared as JSON or as a form and is none; 413, a form has too many fields; 415, its
            charset is not known.
    """
    if not body:
        return None
    media, charset = media_and_charset(content_type)
    if is_json(media):
        return json_value(body, charset)
    if media == MULTIPART:
        return multipart_fields(content_type, body, text_of)
    if media in MAYBE_JSON:
        found = json_container(body, charset)
        if found is not None:
            return found
    return form_fields(body, charset) if media == URLENCODED else None


def media_and_charset(content_type: str) -> tuple[str, str | None]:
    """The media type, and Python's codec for the charset, that a `Content-Type` header names; None where it names none.

    Raises:
        BadContent: 415, the charset is not known.
    """
    try:
        return media_type_and_codec(content_type)
    except UnknownCharset as unknown:
        raise BadContent(415, f"the charset {unknown.args[0][:50]!r} is not understood: send UTF-8") from None


def json_value(body: bytes, charset: str | None = None) -> Any:
    """A JSON document's value.

    Raises:
        BadContent: 400, it is none.
    """
    try:
        return json_document(body, charset)
    except UnicodeDecodeError:
        raise BadContent(400, f"the body is not {charset or 'UTF-16'}, which its charset says") from None
    except ValueError as error:
        raise BadContent(400, f"the body is not valid JSON: {error}") from None


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
        BadContent: 400, it is not in the charset that it says; 413, it has too many fields.
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
    raise BadContent(400, f"the form is not {charset or named[:50] or 'UTF-8'}: name its charset in Content-Type")


def url_decoded(body: bytes, encoding: str, errors: str = "strict") -> dict[str, str]:
    """The fields of an URL-encoded form or query; of a repeated one the last.

    Raises:
        BadContent: 413, there are too many.
        UnicodeDecodeError: It is not in this encoding.
    """
    if body.count(b"&") >= MAX_FIELDS:
        raise BadContent(413, f"the form has more than {MAX_FIELDS:,} fields")
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
