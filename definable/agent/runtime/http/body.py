"""A request's body as the handler of a webhook gets it: pure.

The webhook endpoint parses what comes in. The event bus carries the raw bytes alone, so the workers parse once more
(see `runtime/accepted_request.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json

from .problem import Problem

URLENCODED = "application/x-www-form-urlencoded"

MULTIPART = "multipart/form-data"

MAX_PARTS = 1_000
"""Parts of a multipart form."""


@lru_cache(maxsize=256)
def media_type(content_type: str) -> str:
    """The media type in a `Content-Type` header, in lower case and without parameters; empty when there is none."""
    return content_type.partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """Whether a media type is JSON (RFC 8259, RFC 6839)."""
    return media == "application/json" or media.endswith("+json")


def parsed(content_type: str, body: bytes) -> Any:
    """A webhook's body as its handler gets it.

    JSON and forms are parsed; of a form's repeated field the last counts, and an uploaded file is its bytes. Without a
    content type, and under a form's (which is what `curl -d` says of everything), a JSON object or array is taken for
    what it is. Text becomes a string, anything else stays bytes; an empty body is None.

    Args:
        content_type: The `Content-Type` header; empty when there is none.
        body: The bytes.

    Raises:
        Problem: 400, it is declared as JSON or as a multipart form and is none.
    """
    media = media_type(content_type)
    if not body:
        return None
    if is_json(media):
        return json_value(body)
    if media in ("", URLENCODED) and body.lstrip()[:1] in (b"{", b"["):
        try:
            return json_value(body)
        except Problem:
            pass
    if media == URLENCODED:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if media == MULTIPART:
        return multipart_fields(content_type, body)
    return body.decode("utf-8", "replace") if media.startswith("text/") else body


def json_value(body: bytes) -> Any:
    """A JSON document's value.

    Raises:
        Problem: 400, it is none.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"the body is not valid JSON: {error}") from None


def multipart_fields(content_type: str, body: bytes) -> dict[str, str | bytes]:
    """A multipart form's fields (RFC 7578): text as strings, files as bytes.

    Raises:
        Problem: 400, it is none, or has too many parts.
    """
    # Quart brings it along, so it is loaded where requests come in; an agent without HTTP never needs it.
    from werkzeug.exceptions import RequestEntityTooLarge
    from werkzeug.http import parse_options_header
    from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

    boundary = parse_options_header(content_type)[1].get("boundary", "")
    fields: dict[str, str | bytes] = {}
    part: Field | File | None = None
    content = bytearray()
    try:
        decoder = MultipartDecoder(boundary.encode("latin-1"), max_parts=MAX_PARTS)
        decoder.receive_data(body)
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, Field | File):
                part, content = event, bytearray()
            elif isinstance(event, Data) and part is not None:
                content += event.data
                if not event.more_data:
                    is_file = isinstance(part, File)
                    fields[part.name] = bytes(content) if is_file else content.decode("utf-8", "replace")
    except (ValueError, RequestEntityTooLarge) as error:
        raise Problem(400, f"the body is not a valid multipart form: {error}") from None
    return fields
