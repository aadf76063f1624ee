"""A request's body as the handler of a webhook gets it: pure.

The webhook endpoint parses what comes in. The event bus carries the raw bytes alone, so the workers parse once more
(see `runtime/accepted_request.py`).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from definable.agent.trigger.content import UnknownCharset, codec_named, is_json, json_document, media_type_and_codec

from .multipart import multipart_fields
from .problem import Problem

URLENCODED = "application/x-www-form-urlencoded"

MULTIPART = "multipart/form-data"

MAX_FIELDS = 1_000
"""Fields of a form, and parameters of a query."""

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
    text = body.decode(encoding, errors)
    return dict(parse_qsl(text, keep_blank_values=True, encoding=encoding, errors=errors))
