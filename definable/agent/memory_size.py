"""How many bytes values hold in memory, about: what the bounds of stores and of the run registry count; pure.

Texts and bytes are counted as Python holds them (a text with one emoji takes four bytes a character), what is around
them by a flat figure. Exact enough for a bound, and cheap enough for every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import getsizeof
from typing import Any, cast

from definable.model.message import Message

from .run.output import RunEnded, RunEvent, RunOutput, TextDelta, ToolCallEnded, ToolCallStarted, ToolExecution

OVERHEAD = 200
"""Bytes of an object with a few fields."""

UNCOUNTED_BODY = 1024
"""Bytes of a body below which it does not count: the number of requests bounds them."""

ESTIMATED_BODY = 8 * 1024
"""Bytes of a body below which `SMALL_BODY_FACTOR` is taken: looking closer takes as long as parsing it."""

SMALL_BODY_FACTOR = 8
"""Bytes that values hold for each byte of usual JSON; 25 in the worst case."""

MAX_VISITED = 10_000
"""Parts of one value that are looked at; what lies beyond is taken to be like them."""


def parsed_size(document: bytes | str) -> int:
    """Bytes that a JSON document and the values that it is parsed into hold.

    An estimate by its punctuation: `{},` is 3 bytes, and a dict of 64 bytes with a reference to it.
    """
    if len(document) < ESTIMATED_BODY:
        return len(document) * SMALL_BODY_FACTOR
    if isinstance(document, str):
        document = document.encode("utf-8", "surrogatepass")
    count = document.count
    wide = not document.isascii() or b"\\u" in document  # one character may make each of its text's four bytes
    texts = len(document) * (5 if wide else 2)
    containers = 64 * count(b"{") + 56 * count(b"[")
    return texts + containers + 120 * count(b":") + 24 * count(b",") + 25 * count(b'"')


def messages_size(messages: Iterable[Message]) -> int:
    """Bytes of messages, their images and tool calls included."""
    size = 0
    for message in messages:  # every run comes through here: most messages are a text alone
        size += OVERHEAD + getsizeof(message.content)
        if message.images or message.tool_calls:
            size += _attachments_size(message)
    return size


def _attachments_size(message: Message) -> int:
    size = 0
    for image in message.images:
        size += OVERHEAD + len(image.data or b"") + len(image.url or "")
    for call in message.tool_calls:
        size += OVERHEAD + getsizeof(call.arguments)
    return size


def output_size(output: RunOutput) -> int:
    """Bytes of a run's output; its content counts twice, as a part of its messages too, unless it is the same text."""
    size = OVERHEAD + messages_size(output.messages)
    if output.tool_calls:
        size += sum(map(execution_size, output.tool_calls))
    if output.messages and output.content is output.messages[-1].content:
        return size
    return size + (getsizeof(output.content) if isinstance(output.content, str) else value_size(output.content))


def execution_size(execution: ToolExecution) -> int:
    """Bytes of a tool call with its result."""
    return OVERHEAD + getsizeof(execution.arguments) + getsizeof(execution.result)


def event_size(event: RunEvent) -> int:
    """Bytes of an event of a run; of its end without the output, which the run's record holds."""
    match event:
        case TextDelta(text):
            return OVERHEAD + getsizeof(text)
        case ToolCallStarted(call):
            return OVERHEAD + getsizeof(call.arguments)
        case ToolCallEnded(execution):
            return OVERHEAD + execution_size(execution)
        case _:
            return OVERHEAD


def encoded_size(event: RunEvent) -> int:
    """Bytes of an event as it is sent, about."""
    if isinstance(event, RunEnded):
        output = event.output
        return OVERHEAD + value_size(output.content) + sum(map(execution_size, output.tool_calls))
    return event_size(event)


def value_size(value: Any) -> int:
    """Bytes of any value with what it holds: containers, and objects by their attributes."""
    size, visited, waiting = 0, 0, [value]
    while waiting and visited < MAX_VISITED:
        part = waiting.pop()
        visited += 1
        size += getsizeof(part, OVERHEAD)
        if isinstance(part, Mapping):
            items = cast("Mapping[Any, Any]", part)
            waiting += items.keys()
            waiting += items.values()
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += cast("Iterable[Any]", part)
        elif attributes := getattr(part, "__dict__", None):
            waiting += attributes.values()
    return size + size // max(visited, 1) * len(waiting)
