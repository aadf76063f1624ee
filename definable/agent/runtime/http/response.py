"""What the agent's endpoints answer with."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any

from definable.agent.trigger.base import Reply
from definable.json_text import json_bytes, well_formed

from .answer import BODYLESS, Answer

HOP_BY_HOP = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade"})
"""Headers that say how the message travels: the server's to say, not a handler's."""

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
"""RFC 9110, section 5.1, in lower case."""

VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
"""RFC 9110, section 5.5."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    body: bytes
    status: int = 200
    content_type: bytes | None = b"application/json"
    headers: Iterable[tuple[bytes, bytes]] = ()

    def send(self, answer: Answer) -> Awaitable[None]:
        """Answer a request."""
        headers = [*self.headers]
        if self.status in BODYLESS:
            return answer.whole(self.status, headers, b"")
        if self.content_type is not None:
            headers.append((b"content-type", self.content_type))
        return answer.whole(self.status, headers, self.body)


def json_response(value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    """A response with a value as JSON."""
    return Response(json_bytes(value), status, headers=headers)


def reply_response(reply: Reply) -> Response:
    """A handler's own response, sent as is.

    Raises:
        ValueError: A header cannot be sent.
    """
    headers = header_items(reply.header_pairs())
    own_type = any(name == b"content-type" for name, _ in headers)
    match reply.body:
        case None:
            body, content_type = b"", None
        case bytes():
            body, content_type = reply.body, b"application/octet-stream"
        case str():
            body, content_type = well_formed(reply.body).encode(), b"text/plain; charset=utf-8"
        case _:
            body, content_type = json_bytes(reply.body), b"application/json"
    return Response(body, reply.status, None if own_type else content_type, headers)


def header_items(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them, less those that are the server's to say.

    Raises:
        ValueError: A name or a value cannot be sent, say since it would break out of its line.
    """
    items: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        raw_name, raw_value = str(name).lower().encode("latin-1"), str(value).strip(" \t").encode("latin-1")
        if not (NAME.fullmatch(raw_name) and VALUE.fullmatch(raw_value)):
            raise ValueError(f"Reply(headers={{{name!r}: {value!r}}}): no valid HTTP header")
        if raw_name not in HOP_BY_HOP:
            items.append((raw_name, raw_value))
    return items
