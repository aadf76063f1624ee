"""Requests and answers of the loopback Slack, over h11."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import h11
from anyio.abc import ByteStream


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def head(self) -> bytes:
        """As it came over the wire."""
        lines = [f"{self.method} {self.path}?{self.query} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Answer:
    status: int = 200
    document: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    """Sent as it is, in place of the document."""
    content_type: str = "application/json; charset=utf-8"


async def next_call(stream: ByteStream, http: h11.Connection) -> Call | None:
    request, body = await _next_event(stream, http), b""
    if not isinstance(request, h11.Request):
        return None
    while isinstance(data := await _next_event(stream, http), h11.Data):
        body += data.data
    headers = {name.decode(): value.decode() for name, value in request.headers}
    path, _, query = request.target.decode().partition("?")
    return Call(request.method.decode(), path, query, headers, body)


async def send_answer(stream: ByteStream, http: h11.Connection, answer: Answer) -> None:
    content = json.dumps(answer.document).encode() if answer.content is None else answer.content
    headers = {**answer.headers, "content-type": answer.content_type, "content-length": str(len(content))}
    response = h11.Response(status_code=answer.status, headers=list(headers.items()))
    parts = [http.send(event) or b"" for event in (response, h11.Data(content), h11.EndOfMessage())]
    await stream.send(b"".join(parts))


async def _next_event(stream: ByteStream, http: h11.Connection) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        try:
            http.receive_data(await stream.receive())
        except anyio.EndOfStream:
            http.receive_data(b"")
    return event
