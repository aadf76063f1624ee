"""What is asked of a service. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KEY = "k-5d1f0c7f2a"
"""The API key of the guarded webhook."""

JSON = {"content-type": "application/json"}

DELIVERY = b'{"action":"opened","number":1,"repository":{"full_name":"a/b"},"sender":{"login":"c"}}'
"""What a webhook's sender has to say."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, asked over and over."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_bytes(self) -> bytes:
        """The request over HTTP/1.1."""
        headers = {"host": "127.0.0.1", "content-length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + self.body


WEBHOOK = Ask("/webhook", DELIVERY, JSON)
GUARDED = Ask("/guarded", DELIVERY, JSON | {"x-api-key": KEY})
RUN = Ask("/run", b'{"input":"hello"}', JSON)
RUN_STREAMED = Ask("/run", b'{"input":"hello"}', JSON | {"accept": "text/event-stream"})

FORM = {"content-type": "application/x-www-form-urlencoded"}
AGNO_RUN = Ask("/agents/echo/runs", b"message=hello&stream=false", FORM)
AGNO_RUN_STREAMED = Ask("/agents/echo/runs", b"message=hello&stream=true", FORM)
