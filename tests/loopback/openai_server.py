"""A strict loopback server that speaks Chat Completions over a real socket, on asyncio and on trio.

It refuses what OpenAI refuses (`openai_rules`), answers from a queue, and can fail in the ways in which providers and
the proxies before them fail. It knows nothing of definable's classes.

```
async with OpenAIServer().running() as server:
    server.play(Completion("hello"), Problem(429, "slow down", headers={"retry-after": "0"}))
```
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

from .openai_rules import Refusal, check
from .provider_rules import check_provider, fields_of


@dataclass(frozen=True)
class Completion:
    """A good answer; sent whole or streamed, as the request asks."""

    content: str | None = None
    calls: Sequence[tuple[str, str, str]] = ()
    """(id, name, arguments as JSON text)."""
    finish_reason: str | None = None
    usage: tuple[int, int] | None = (9, 12)
    """Prompt and completion tokens; None: a server that omits usage."""
    refusal: str | None = None
    model: str = "gpt-4o-2024-08-06"

    def whole(self) -> dict[str, Any]:
        calls = [_call(*call) for call in self.calls]
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        choice = {"index": 0, "message": message | ({"tool_calls": calls} if calls else {}), "logprobs": None}
        body = self._head("chat.completion") | {"choices": [choice | {"finish_reason": self._finish()}]}
        return body | ({"usage": self._usage()} if self.usage else {})

    def chunks(self, include_usage: bool) -> Iterator[dict[str, Any]]:
        head = self._head("chat.completion.chunk")
        for delta in self._deltas():
            yield head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
        yield head | {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._finish()}]}
        if include_usage and self.usage:
            yield head | {"choices": [], "usage": self._usage()}

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": "" if self.content else None, "refusal": None}
        words = (self.content or "").split(" ")
        for word in [f"{word} " for word in words[:-1]] + words[-1:]:
            if word:
                yield {"content": word}
        if self.refusal:
            yield {"refusal": self.refusal}
        for index, (id, name, _) in enumerate(self.calls):
            yield {
                "tool_calls": [
                    {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
                ]
            }
        for at in range(0, max((len(arguments) for _, _, arguments in self.calls), default=0), 3):
            for index, (_, _, arguments) in enumerate(self.calls):  # interleaved, as parallel calls may come
                if piece := arguments[at : at + 3]:
                    yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _head(self, object: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": object, "created": 1700000000, "model": self.model}

    def _finish(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    def _usage(self) -> dict[str, int]:
        prompt, completion = self.usage or (0, 0)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True)
class Problem:
    """An error answer."""

    status: int
    message: str
    type: str = "server_error"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """A body sent as it is: a proxy's HTML page, broken JSON."""

    body: bytes
    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class BrokenStream:
    """A stream that goes wrong after its first chunks."""

    completion: Completion
    chunks: int
    """How many chunks are sent before."""
    then: Literal["end", "disconnect", "stall"] | bytes | tuple[Literal["again"], bytes]
    """The body ends without [DONE]; the socket is closed; nothing more comes; these bytes are sent, and it ends; or
    these are sent again and again."""


SPOKEN = "one two three"

FAILING_REPLIES: dict[str, Sequence[Completion | BrokenStream]] = {
    "cut off": [Completion(SPOKEN, finish_reason="length")],
    "withheld": [Completion(SPOKEN, finish_reason="content_filter")],
    "failed": [Completion(SPOKEN, finish_reason="network_error")],
    "gone": [BrokenStream(Completion(SPOKEN), 3, "disconnect")],
    "ended": [BrokenStream(Completion(SPOKEN), 3, "end")],
    "an error": [BrokenStream(Completion(SPOKEN), 3, b'data: {"error": {"message": "busy", "code": 503}}\n\n')],
    "empty": [Completion(""), Completion("")],
}
"""Answers to one question that are no answer, however often it is asked."""


@dataclass(frozen=True)
class Fault:
    """No answer at all: the socket is closed, or nothing comes."""

    kind: Literal["disconnect", "hang"]


Answer: TypeAlias = Completion | Problem | Page | BrokenStream | Fault


@dataclass(frozen=True)
class Received:
    """One request, as it came over the wire."""

    headers: Mapping[str, str]
    body: Any
    peer_port: int
    """Tells whether two requests used one connection."""


class OpenAIServer:
    """The server; see the module."""

    def __init__(self, *, key: str = "sk-loopback", models: Sequence[str] = ("gpt-4o",), rules: str = "openai") -> None:
        self.key = key
        self.rules = rules
        """Whose (`provider_rules`): what OpenAI refuses, all others do here, too."""
        self.models = frozenset(models)
        self.url = ""
        self.received: list[Received] = []
        """Requests that passed the checks."""
        self.refusals: list[Refusal] = []
        self.cut_off = 0
        """Clients that went away before their answer was whole."""
        self.connections = 0
        """Open now."""
        self._answers: list[Answer] = []
        self._hung_up = anyio.Event()

    async def idle(self) -> None:
        """Until no connection is open."""
        while self.connections:
            self._hung_up = anyio.Event()
            await self._hung_up.wait()

    def play(self, *answers: Answer) -> None:
        """Queue answers, one a request; without any, requests are answered `"ok"`."""
        self._answers.extend(answers)

    def forget(self) -> None:
        """Drop the answers that nobody has asked for."""
        self._answers.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OpenAIServer]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.serve)
            yield self
            tasks.cancel_scope.cancel()

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener:
            self.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/v1"
            task_status.started()
            await listener.serve(self._converse)

    async def _converse(self, stream: SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        self.connections += 1
        try:
            async with stream:
                while await self._exchange(stream, connection):
                    connection.start_next_cycle()
        except (anyio.BrokenResourceError, anyio.EndOfStream, h11.RemoteProtocolError):
            self.cut_off += 1
        finally:
            self.connections -= 1
            self._hung_up.set()

    async def _exchange(self, stream: SocketStream, connection: h11.Connection) -> bool:
        """Answer one request; False when the connection is over."""
        request = await _next_event(stream, connection)
        if not isinstance(request, h11.Request):
            return False
        body = bytearray()
        while isinstance(data := await _next_event(stream, connection), h11.Data):
            body += data.data
        headers = {name.decode(): value.decode() for name, value in request.headers}
        sender = _Sender(stream, connection)
        try:
            where = (request.method.decode(), request.target.decode())
            more = fields_of(self.rules)
            parsed = check(*where, headers, bytes(body), key=self.key, models=self.models, more=more)
            check_provider(parsed, self.rules)
        except Refusal as refusal:
            self.refusals.append(refusal)
            await sender.whole(refusal.status, refusal.body())
        else:
            self.received.append(Received(headers, parsed, stream.extra(SocketAttribute.remote_port)))
            answer = self._answers.pop(0) if self._answers else Completion("ok")
            await _answer(sender, answer, parsed)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


class _Sender:
    """Writes one HTTP response."""

    def __init__(self, stream: SocketStream, connection: h11.Connection) -> None:
        self._stream = stream
        self._connection = connection

    async def whole(
        self, status: int, body: bytes, content_type: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        fields = {"content-type": content_type, "content-length": str(len(body))} | dict(headers or {})
        await self.send(h11.Response(status_code=status, headers=list(fields.items())), h11.Data(body))
        await self.send(h11.EndOfMessage())

    async def begin_events(self) -> None:
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked")]
        await self.send(h11.Response(status_code=200, headers=headers))

    async def event(self, data: str) -> None:
        await self.send(h11.Data(f"data: {data}\n\n".encode()))

    async def send(self, *events: h11.Event) -> None:
        for event in events:
            await self._stream.send(self._connection.send(event) or b"")

    async def disconnect(self) -> None:
        await self._stream.aclose()
        self._connection.send_failed()

    async def send_until_hang_up(self, raw: bytes) -> None:
        """Send this every 20 ms until the client goes away."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.wait_for_hang_up)
            while True:
                await self.send(h11.Data(raw))
                await anyio.sleep(0.02)

    async def wait_for_hang_up(self) -> None:
        """Until the client goes away."""
        while True:
            await self._stream.receive()


async def _answer(sender: _Sender, answer: Answer, request: dict[str, Any]) -> None:
    match answer:
        case Completion() if request.get("stream"):
            await _send_stream(sender, answer, request, None, "done")
        case Completion():
            await sender.whole(200, json.dumps(answer.whole()).encode())
        case BrokenStream(completion, chunks, then):
            await _send_stream(sender, completion, request, chunks, then)
        case Problem(status, message, type, code, headers):
            body = Refusal(message, status, type, code).body()
            await sender.whole(status, body, headers=headers)
        case Page(body, status, content_type, headers):
            await sender.whole(status, body, content_type, headers)
        case Fault("disconnect"):
            await sender.disconnect()
        case Fault():
            await sender.wait_for_hang_up()


async def _send_stream(
    sender: _Sender, completion: Completion, request: dict[str, Any], limit: int | None, then: Any
) -> None:
    await sender.begin_events()
    include_usage = request.get("stream_options", {}).get("include_usage", False)
    for chunk in list(completion.chunks(include_usage))[:limit]:
        await sender.event(json.dumps(chunk))
    match then:
        case "done":
            await sender.event("[DONE]")
        case "disconnect":
            return await sender.disconnect()
        case "stall":
            await sender.wait_for_hang_up()
        case bytes(raw):
            await sender.send(h11.Data(raw))
        case ("again", raw):
            await sender.send_until_hang_up(raw)
        case _:
            pass
    await sender.send(h11.EndOfMessage())


async def _next_event(stream: SocketStream, connection: h11.Connection) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        try:
            connection.receive_data(await stream.receive())
        except anyio.EndOfStream:
            connection.receive_data(b"")
    return event


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
