"""An error as the HTTP caller sees it: RFC 9457 `application/problem+json`, never an HTML page or a traceback.

Below everything else in this package. The server answers with one whatever it cannot parse or serve; an application may
raise a `Problem` and send it with `send_problem`, or build its own response from `status`, `headers` and `body()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .request_cycle import Send

MEDIA_TYPE = "application/problem+json"
"""RFC 9457, section 3."""

RESERVED = frozenset({"type", "title", "status", "detail"})
"""Members that RFC 9457 defines: an extension member must not take their names."""


class Problem(Exception):
    """A request that cannot be answered as asked, with what its sender may know about it.

    Args:
        status: The HTTP status, 400 to 599.
        detail: What went wrong with this request, for a human. Never internals.
        title: What kind of problem it is; the phrase of the status unless given.
        headers: Further response headers, say `(b"retry-after", b"5")`.
        **extensions: Extension members of the document (RFC 9457, section 3.2), JSON-serialisable; say
            `errors=[{"field": "input", "message": "is required"}]`.

    Raises:
        ValueError: The status is no error status, or an extension has the name of a standard member.
    """

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        title: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        **extensions: object,
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a problem has a status from 400 to 599, not {status}")
        if reserved := RESERVED & extensions.keys():
            raise ValueError(f"extension members must not be named {', '.join(sorted(reserved))}")
        self.status = status
        self.detail = detail
        self.title: str = title if title is not None else phrase(status)
        self.headers: list[tuple[bytes, bytes]] = list(headers)
        self.extensions = extensions
        super().__init__(f"{status} {self.title}: {detail}" if detail else f"{status} {self.title}")

    def body(self) -> bytes:
        """The problem document, as UTF-8 JSON."""
        document: dict[str, object] = {"title": self.title, "status": self.status}
        if self.detail:
            document["detail"] = self.detail
        return json.dumps(document | self.extensions, ensure_ascii=False, separators=(",", ":")).encode(
            errors="backslashreplace"
        )

    def response_headers(self, *, close: bool = False) -> list[tuple[bytes, bytes]]:
        """All headers of the response that carries `body()`.

        Args:
            close: Also says that the connection ends with this response.
        """
        length = b"%d" % len(self.body())
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", length), *self.headers]
        return [*headers, (b"connection", b"close")] if close else headers


def phrase(status: int) -> str:
    """The reason phrase of an HTTP status, or a plain name for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Error" if status < 500 else "Server Error"


async def send_problem(send: Send, problem: Problem, *, kind: str = "http.response", close: bool = False) -> None:
    """Answers an ASGI request with a problem.

    Args:
        send: The ASGI `send` of a request whose response has not started.
        problem: What to answer.
        kind: The messages' type; `"websocket.http.response"` (an extension of ASGI) rejects a WebSocket handshake.
        close: Also ends the connection (`connection: close`; HTTP/2 has no such header and drops it).
    """
    headers = problem.response_headers(close=close)
    await send({"type": f"{kind}.start", "status": problem.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": problem.body()})


REFUSALS = {
    400: "The request is not valid HTTP.",
    408: "The request did not arrive in time.",
    431: "The request head is too large.",
    501: "The request uses a method or a transfer coding that this server does not know.",
    505: "This server speaks HTTP/1.0 and HTTP/1.1 here.",
}
"""Why a request cannot be parsed or served, by status."""


class Refused(Exception):
    """A request that is answered by its head alone, with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def refusal(status: int) -> Problem:
    """The answer to a request that cannot be parsed or served."""
    return Problem(status, REFUSALS.get(status, ""))
