"""Any text as SQLite keeps it, and back: pure."""

from __future__ import annotations


def to_sqlite(text: str) -> str | bytes:
    """The text; as bytes where it holds half of a surrogate pair, which SQLite's UTF-8 lacks."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def from_sqlite(kept: str | bytes) -> str:
    """The text of what `to_sqlite` made of it."""
    return kept if isinstance(kept, str) else kept.decode("utf-8", "surrogatepass")
