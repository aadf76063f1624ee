"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): runs as they happen.

The run endpoints answer with a `LiveRun` or a `FollowedRun`. Each thing that happens becomes one event with an id,
silence becomes a comment, and the last event says how the run ended, also when it failed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from definable.agent.run.context import RunRequest
from definable.agent.run.output import (
    Listener,
    RunEnded,
    RunEvent,
    RunOutput,
    RunStarted,
    RunStatus,
    TextDelta,
    ToolCallEnded,
    ToolCallStarted,
    encoded_size,
)
from definable.agent.run.stream import RunStream
from definable.agent.runtime.runs import RunRecord, RunRegistry
from definable.concurrency.event_loop import plain_errors
from definable.concurrency.logs import logger_named
from definable.json_text import json_bytes
from definable.server.problem import Problem
from definable.server.request_cycle import Send

from .documents import ToolCall, ToolExecution, failure_document, record_document, run_document
from .request import Request, until_gone
from .response import ResponseSender

logger: logging.Logger = logger_named("definable.http")

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment tells proxies and clients that the stream is alive."""

LAST_WORD = 0.5
"""Seconds that a client may take to hear that its stream is cut off."""

MEDIA_TYPE = "text/event-stream"

StreamedEvent: TypeAlias = RunEvent | RunRecord
"""What happens in a run, or the end of one that has no output: it failed, or was promised and not made."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the events back
]


async def send_events(
    send: ResponseSender,
    events: AsyncIterator[tuple[int, StreamedEvent]],
    last_id: int = 0,
    namespace: str = "",
    *,
    will_go_on: Callable[[], bool] = lambda: False,
) -> None:
    """Answer an ASGI request with a run's events; what they raise becomes the last event.

    Args:
        send: The ASGI `send` of a request whose response has not started.
        events: Ids and events. Waiting for the next one must bear a cancellation without loss.
        last_id: The id of the last event that the client has.
        namespace: Of the run's caller, who knows its session without it.
        will_go_on: Whether the run will be made although this stream is cut off: then it ends without a last event, and
            the client may follow the run elsewhere or later.
    """
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"", "more_body": True})  # a server may hold the head back for it
    more = True
    while more:
        event: StreamedEvent | None = None
        try:
            with anyio.move_on_after(KEEP_ALIVE):
                last_id, event = await anext(events)
        except StopAsyncIteration:
            more = False
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except anyio.get_cancelled_exc_class():
            await send_last_word(send, None if will_go_on() else last_id + 1)
            raise
        except Exception as error:
            more = False
            chunk = encoded_failure(last_id + 1, error)
            await send({"type": "http.response.body", "body": chunk, "more_body": False})
        else:
            more = await send_event(send, last_id, event, namespace)


async def send_event(send: ResponseSender, number: int, event: StreamedEvent | None, namespace: str) -> bool:
    """Send one event, or a comment where there was none for a while.

    A large one waits before it is encoded: each of those who follow a run would hold a copy of it until it is read.

    Returns:
        Whether more follow: one that has no form in JSON is sent as the failure that it is, and is the last.
    """
    if event is None:
        await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})
        return True
    async with send.part_of(0 if isinstance(event, RunRecord) else encoded_size(event)):
        try:
            chunk, more = encoded(number, event, namespace), True
        except ValueError as error:
            logger.error("an event of a run has no form in JSON, and its stream ends: %s", error)
            chunk, more = encoded_failure(number, error), False
        await send({"type": "http.response.body", "body": chunk, "more_body": more})
    return more


async def send_no_events(send: Send) -> None:
    """Answer an ASGI request as `send_events` does, less the events: HEAD has no use for them, and does not wait."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b""})


async def send_last_word(send: Send, number: int | None) -> None:
    """End a stream that a stop cuts off; without effect where it is the client that has gone.

    Args:
        send: The ASGI `send`.
        number: The id of the failure that the client is told; None when there is none.
    """
    chunk = b"" if number is None else encoded_failure(number, Problem(503, "the service is stopping"))
    # Shielded, because a client that waits is owed the end. Bounded, for one that does not read.
    with anyio.move_on_after(LAST_WORD, shield=True):
        await send({"type": "http.response.body", "body": chunk, "more_body": False})


def encoded(number: int, event: StreamedEvent, namespace: str) -> bytes:
    """One of a run's events."""
    name, data = described(event, namespace)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name, json_bytes(data))


def encoded_failure(number: int, error: Exception) -> bytes:
    """The last event of a run that failed: the problem that a plain request would have been answered."""
    return b"id: %d\nevent: run_failed\ndata: %b\n\n" % (number, json_bytes(failure_document(error)))


def described(event: StreamedEvent, namespace: str) -> tuple[bytes, dict[str, Any]]:
    """An event's name and data."""
    match event:
        case TextDelta(text):
            return b"text_delta", {"text": text}
        case RunStarted(run_id, session_id):
            return b"run_started", {"run_id": run_id, "session_id": session_id.removeprefix(namespace)}
        case ToolCallStarted(call):
            return b"tool_call_started", ToolCall.of(call)
        case ToolCallEnded(execution):
            return b"tool_call_ended", ToolExecution.of(execution)
        case RunEnded(output):
            return b"run_ended", run_document(output, namespace)
        case RunRecord(failure=Exception() as failure):
            return b"run_failed", failure_document(failure)
        case RunRecord():
            return b"run_ended", record_document(event)


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run that is sent as it happens."""

    request: Request
    runs: RunRegistry
    asked: RunRequest
    source: str
    is_kept: bool = False
    """Whether it goes on when its client leaves."""

    async def send(self, sender: ResponseSender) -> None:
        """Make the run and send its events; raises what the run raises, also after it was sent as the last event.

        A run that cannot begin raises before anything is sent, unless its session's turn is long in coming.
        """
        if self.is_kept:
            await self._stream(sender)
        else:
            await until_gone(self.request, lambda: self._stream(sender))

    async def _stream(self, sender: ResponseSender) -> None:
        def run(listener: Listener) -> Awaitable[RunOutput]:
            return self.runs.run(self.asked, self.source, listener)

        with plain_errors():
            async with anyio.create_task_group() as tasks, RunStream(run, tasks) as stream:
                await self._send_events(sender, stream)

    async def _send_events(self, sender: ResponseSender, stream: RunStream) -> None:
        first: RunEvent | None = None
        with anyio.move_on_after(KEEP_ALIVE):
            first = await anext(stream)
        try:
            await send_events(sender, NumberedEvents(first, stream), namespace=self.asked.namespace)
        finally:  # a server may say that the client is gone as soon as the last event is out
            if stream.failure is not None:
                raise stream.failure


class NumberedEvents:
    """A run's events with their ids, from 1. No generator, which a cancelled wait would end.

    Args:
        first: The run's first event, if it was waited for already.
        stream: The others.
    """

    def __init__(self, first: RunEvent | None, stream: RunStream) -> None:
        self._first = first
        self._stream = stream
        self._number = 0

    def __aiter__(self) -> NumberedEvents:
        return self

    async def __anext__(self) -> tuple[int, RunEvent]:
        first, self._first = self._first, None
        event = await anext(self._stream) if first is None else first
        self._number += 1
        return self._number, event


@dataclass(frozen=True, slots=True)
class FollowedRun:
    """A run's events, sent to one who only looks on: leaving does not cancel it."""

    request: Request
    events: LoggedEvents
    namespace: str
    """Of the run's caller."""

    async def send(self, sender: ResponseSender) -> None:
        """Send the events until the run ends or the client leaves; to HEAD, that there are any."""
        if self.request.method == "HEAD":
            await send_no_events(sender)
            return
        await until_gone(self.request, lambda: self._send(sender))

    async def _send(self, sender: ResponseSender) -> None:
        events = self.events
        await send_events(sender, events, events.last_id, self.namespace, will_go_on=lambda: events.will_go_on)


class LoggedEvents:
    """The events that a run's log holds and will hold, and how the run ended, where that is heard of.

    No generator, which a cancelled wait would end.

    Args:
        record: The run.
        last_id: The last event that the client has.
    """

    def __init__(self, record: RunRecord, last_id: int) -> None:
        self._record = record
        self._ended = False
        self.last_id: int = last_id
        """The last event that was handed out."""

    @property
    def all_seen(self) -> bool:
        """Whether the client has the last event there will be."""
        log = self._record.log
        return log.ended and not self.will_go_on and self.last_id >= log.last_id + (self._record.output is None)

    @property
    def will_go_on(self) -> bool:
        """Whether the run will be made although this process ends."""
        return self._record.will_go_on

    def __aiter__(self) -> LoggedEvents:
        return self

    async def __anext__(self) -> tuple[int, RunEvent | RunRecord]:
        logged = await self._record.log.after(self.last_id)
        if logged is not None:
            self.last_id = logged[0]
            return logged
        if self._record.output is not None or self._ended:  # its end was an event, or has been told
            raise StopAsyncIteration
        if self._record.status in (RunStatus.QUEUED, RunStatus.RUNNING):  # its end will not be heard of here
            raise StopAsyncIteration
        self._ended = True
        return self._record.log.last_id + 1, self._record
