"""Multipart forms (RFC 7578): pure, in linear time, and bounded in what a part's header may hold."""

from __future__ import annotations

from collections.abc import Callable


class BadContent(ValueError):
    """A body that is not what its sender says, or more than is taken.

    Args:
        status: What it is answered: 400, 413 or 415.
        detail: What is wrong with it, for its sender.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status: int = status


MAX_PARTS = 1_000
"""Parts of a form."""

MAX_BOUNDARY = 70
"""Characters (RFC 2046, 5.1.1)."""

MAX_PART_HEADER = 8 * 1024
"""Bytes of all header lines of one part."""

MAX_PART_LINES = 16
"""Header lines of one part: three are defined (RFC 7578, 4.8)."""


def multipart_fields(content_type: str, body: bytes, text_of: Callable[[str, bytes], str]) -> dict[str, str | bytes]:
    """A multipart form's fields: text as strings, files as bytes; of a repeated one the last.

    Args:
        content_type: The `Content-Type` header, which names the boundary.
        body: The bytes.
        text_of: From a part's own content type and bytes to its text.

    Raises:
        BadContent: 400, it is none; 413, it has more than `MAX_PARTS` parts.
    """
    fields: dict[str, str | bytes] = {}
    for part in parts_of(boundary_of(content_type), body):
        name, kind, value = field_of(part)
        fields[name] = value if kind is None else text_of(kind, value)
    return fields


def boundary_of(content_type: str) -> bytes:
    """What separates the parts.

    Raises:
        BadContent: 400, the header names none, or one that is too long.
    """
    boundary = options(content_type).get("boundary", "")
    if not 1 <= len(boundary) <= MAX_BOUNDARY:
        raise malformed(f"its boundary must have 1 to {MAX_BOUNDARY} characters")
    return boundary.encode("latin-1", "replace")


def parts_of(boundary: bytes, body: bytes) -> list[bytes]:
    """The parts, each from behind its boundary to before the next.

    Raises:
        BadContent: 400, it does not begin or end as it should; 413, there are too many.
    """
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_PARTS + 2)
    end = next((number for number, part in enumerate(parts) if part.startswith(b"--")), None)
    if (len(parts) if end is None else end) > MAX_PARTS:
        raise BadContent(413, f"the form has more than {MAX_PARTS:,} parts")
    if end is None:
        raise malformed("it has no end")
    return parts[:end]


def field_of(part: bytes) -> tuple[str, str | None, bytes]:
    """A part's name, its content type (None for a file's) and its content.

    Raises:
        BadContent: 400, its header is malformed or too large.
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
        return disposition["name"], None, content
    return disposition["name"], headers.get("content-type", ""), content


def part_headers(lines: bytes) -> dict[str, str]:
    """A part's header, by names in lower case.

    Raises:
        BadContent: 400, it has too many lines.
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


def malformed(why: str) -> BadContent:
    """The error of a body that is no form."""
    return BadContent(400, f"the body is not a valid multipart form: {why}")
