"""What a message carries beside its text: frozen values, the same for every platform.

Images are `definable.model.Image`s, which a model can look at. Everything else is a `Media`: the model is told that it
is there, tools and hooks read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Media:
    """An audio, a video or a file."""

    data: bytes | None = None
    """The encoded content; None when it was not fetched, say since it is too large."""
    url: str | None = None
    """Where the platform can fetch it from, of one that is sent."""
    platform_id: str | None = None
    """What the platform knows it by."""
    media_type: str = "application/octet-stream"
    """The MIME type."""
    filename: str | None = None
    size: int | None = None
    """Bytes, as far as it is known."""
    duration: float | None = None
    """Seconds, of audio and video."""

    def __str__(self) -> str:
        size = len(self.data) if self.data is not None else self.size
        parts = [self.media_type]
        parts += [] if self.duration is None else [f"{self.duration:g} s"]
        parts += [] if size is None else [f"{size} bytes"]
        return f"{self.filename or 'unnamed'} ({', '.join(parts)})"
