"""The web chat's page without a browser: what its scripts send and read, over plain HTTP."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import h11
import httpx2
from anyio.abc import ByteStream


@dataclass
class ChatEvents:
    """One stream of events, and what its page shows by them."""

    reader: EventReader
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    busy: bool = False
    commands: dict[str, str] = field(default_factory=dict)
    last_id: str = ""
    kinds: list[str] = field(default_factory=list)
    """Of all events, in order."""

    async def next(self) -> str | None:
        """Take one event; its kind, None at the end of the stream."""
        kind, data = "message", ""
        while (line := await self.reader.line()) is not None:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                self.last_id = value
            elif name == "data":
                data = value
            elif not line and data:
                self.kinds.append(kind)
                self._apply(kind, json.loads(data))
                return kind
        return None

    async def until(self, is_reached: Callable[[ChatEvents], bool]) -> None:
        """Take events until something is shown."""
        while not is_reached(self):
            assert await self.next() is not None, f"the stream has ended: {self.entries}"

    async def answered(self, count: int = 1) -> list[str]:
        """Take events until so many whole answers are shown and no more is to come; their texts."""
        await self.until(lambda events: not events.busy and len(events.answers()) >= count)
        return self.answers()

    def answers(self) -> list[str]:
        """The texts of the agent's whole messages."""
        return [each["text"] for each in self.entries.values() if each["role"] == "agent" and not each["draft"]]

    def texts(self) -> list[str]:
        """All that is shown."""
        return [each["text"] for each in self.entries.values()]

    def _apply(self, kind: str, data: Any) -> None:
        match kind:
            case "state":
                self.entries = {each["id"]: each for each in data["entries"]}
                self.busy, self.commands = data["busy"], data["commands"]
            case "entry":
                self.entries[data["id"]] = data
            case "delta":
                self.entries[data["id"]]["text"] += data["text"]
            case "done":
                self.entries[data["id"]] |= data | {"draft": False}
            case "remove":
                self.entries.pop(data["id"], None)
            case "busy":
                self.busy = data["busy"]
            case "commands":
                self.commands = data["commands"]
            case _:
                assert kind == "replaced", kind


@dataclass
class ChatPage:
    """One browser's page; its cookies are its own."""

    client: httpx2.AsyncClient
    path: str = "/chat"
    headers: dict[str, str] = field(default_factory=dict)

    async def enter(self, **body: Any) -> httpx2.Response:
        """Ask for a session."""
        return await self.client.post(f"{self.path}/session", json=body, headers=self.headers)

    async def say(self, text: str, *, id: str | None = None, **more: Any) -> httpx2.Response:
        """Post a message."""
        body = {"id": id or secrets.token_hex(12), "text": text, **more}
        return await self.client.post(f"{self.path}/messages", json=body, headers=self.headers)

    @asynccontextmanager
    async def events(self, last_id: str = "") -> AsyncGenerator[ChatEvents]:
        """Open a stream; what was missed since an event comes first."""
        headers = {"accept": "text/event-stream", **self.headers} | ({"last-event-id": last_id} if last_id else {})
        request = self.client.build_request("GET", f"{self.path}/events", headers=headers)
        assert request.url.port is not None
        async with await anyio.connect_tcp(request.url.host, request.url.port) as stream:
            yield ChatEvents(await EventReader.opened(stream, request))


class EventReader:
    """Reads one response's lines from a connection of its own: httpx2 leaves generators behind where one leaves early.

    Args:
        stream: The connection.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._text = ""
        self._has_ended = False

    @classmethod
    async def opened(cls, stream: ByteStream, request: httpx2.Request) -> EventReader:
        """Send a request, and wait for its answer, which must be 200."""
        reader = cls(stream)
        target = request.url.raw_path
        sent = h11.Request(method=request.method, target=target, headers=list(request.headers.raw))
        await stream.send((reader._http.send(sent) or b"") + (reader._http.send(h11.EndOfMessage()) or b""))
        response = await reader._next()
        assert isinstance(response, h11.Response) and response.status_code == 200, response
        return reader

    async def line(self) -> str | None:
        """The next line; None at the end."""
        while "\n" not in self._text:
            if self._has_ended:
                return None
            event = await self._next()
            if isinstance(event, h11.Data):
                self._text += bytes(event.data).decode()
            else:
                self._has_ended = True
        line, _, self._text = self._text.partition("\n")
        return line

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                self._http.receive_data(await self._stream.receive())
            except anyio.EndOfStream:
                self._http.receive_data(b"")
        return event


@asynccontextmanager
async def chat_page(url: str | httpx2.URL, path: str = "/chat") -> AsyncGenerator[ChatPage]:
    """A page with a session."""
    async with httpx2.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        page = ChatPage(client, path)
        assert (await page.enter()).status_code == 200
        yield page
