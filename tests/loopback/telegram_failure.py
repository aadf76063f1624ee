"""The ways in which the Bot API, and the way to it, fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True)
class Refused:
    """An answer that is not ok."""

    code: int
    description: str
    retry_after: int | None = None
    moved_to: int | None = None

    def body(self) -> dict[str, Any]:
        parameters = {"retry_after": self.retry_after, "migrate_to_chat_id": self.moved_to}
        given = {name: value for name, value in parameters.items() if value is not None}
        answer = {"ok": False, "error_code": self.code, "description": self.description}
        return answer | ({"parameters": given} if given else {})


@dataclass(frozen=True)
class Page:
    """A body as it is sent: a proxy's page, broken JSON, what nobody can decode."""

    body: bytes = b"<html>502 Bad Gateway</html>"
    status: int = 502
    content_type: str = "text/html"
    encoding: str = ""


@dataclass(frozen=True)
class Fault:
    """The socket is closed: before the request is acted on, or after; or nothing comes."""

    kind: Literal["drop", "drop after", "hang"]


@dataclass(frozen=True)
class Slow:
    """The answer comes late."""

    seconds: float


Failure: TypeAlias = Refused | Page | Fault | Slow
