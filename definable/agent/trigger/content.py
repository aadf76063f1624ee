"""What the bytes of a request are by their `Content-Type`: media type, text, JSON. Pure, and in linear time.

`RawRequest` and the HTTP endpoints read bodies with it.

A body of one's own: what a handler does to its event's body is seen by no other handler, and by no later attempt.

`runtime/workers.py` and `runtime/dispatch.py` make one where several handlings share the data. Pure.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from functools import lru_cache
from math import isfinite
from typing import Any

from pydantic_core import from_json

CONTAINERS = (dict, list)
"""What JSON is made of; of anything else that an event in memory may hold there is but one."""


def own_body(body: Any) -> Any:
    """A copy of a body's dicts and lists, at whatever depth; of one that holds itself, of the outermost alone."""
    try:
        return _copied(body)
    except RecursionError:
        return body.copy()


def _copied(value: Any) -> Any:
    kind = value.__class__
    if kind is dict:
        return {key: _copied(each) if type(each) in CONTAINERS else each for key, each in value.items()}
    if kind is list:
        return [_copied(each) if type(each) in CONTAINERS else each for each in value]
    return value


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
