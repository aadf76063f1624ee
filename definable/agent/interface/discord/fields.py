"""Fields of Discord's JSON objects, which may be of any type, or missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast


def object_of(value: object) -> Mapping[str, Any]:
    """The object; an empty one where it is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def objects_of(value: object) -> Sequence[Mapping[str, Any]]:
    """The objects of a list; none where it is no list."""
    found = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", each) for each in found if isinstance(each, dict)]


def text_of(value: object) -> str | None:
    """The text; None where it is none, or empty."""
    return value if isinstance(value, str) and value else None
