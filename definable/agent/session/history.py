"""The history of a conversation: how much of it is kept and sent, and what no provider would take of it.

Pure. A run repairs what a store has kept, and each reply on its way in: one call whose arguments are no JSON object, or
one empty answer, is refused by many servers, and would be at every later message of its session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from pydantic_core import from_json

from definable.model.message import Message, ToolCall


class History(tuple[Message, ...]):
    """A conversation as every provider takes it: it need not be looked through again, however long it is, and may be
    cut before any user's message. Only `repaired` makes one, of what is no `History`."""

    __slots__ = ()

    def with_run(self, added: tuple[Message, ...]) -> History:
        """The conversation with what a run has added, of which alone something may have to be repaired."""
        return History(self + repaired(added))


def bounded(messages: tuple[Message, ...], limit: int) -> tuple[Message, ...]:
    """The newest messages, at most `limit` of them; what was cut begins with a user's message.

    A cut is made before a user's message alone, and between no tool call and its result (providers refuse such a
    history). When the newest part that may be cut off is by itself longer than the limit it is kept whole.

    Args:
        messages: A conversation, oldest first.
        limit: How many messages are wanted at most.
    """
    if len(messages) <= limit:
        return messages
    if isinstance(messages, History):
        return History(messages[_beginning_within(messages, limit) :])
    begin = 0
    for begin in _beginnings(messages):
        if len(messages) - begin <= limit:
            break
    return messages[begin:]


def _beginning_within(messages: History, limit: int) -> int:
    """Where the newest messages begin, of a conversation that may be cut before any user's message."""
    cut = len(messages) - limit
    for index in (*range(cut, len(messages)), *range(cut - 1, -1, -1)):
        if messages[index].role == "user":
            return index
    return 0


def _beginnings(messages: Sequence[Message]) -> Iterator[int]:
    """Where the history may begin when the messages before are cut off; oldest first."""
    last_results = _last_results(messages)
    owed = -1
    """The index up to which messages belong to a call that came before."""
    for index, message in enumerate(messages):
        if message.role == "user" and owed < index:
            yield index
        owed = max(owed, last_results[index])


def _last_results(messages: Sequence[Message]) -> list[int]:
    """For each message, the index of the last result of a tool call in it; -1 where there is none."""
    last_results = [-1] * len(messages)
    asked: dict[str, int] = {}
    for index, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id in asked:
            last_results[asked[message.tool_call_id]] = index
        for call in message.tool_calls:
            asked[call.id] = index  # ids may return: a result belongs to the newest call of its id
    return last_results


def newest_half(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """What is left when the oldest half is dropped, as `bounded` cuts; nothing when the newest part is all there is."""
    kept = bounded(messages, len(messages) // 2)
    return kept if len(kept) < len(messages) else ()


_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What OpenAI accepts as a function's name in a history, and others alike (API reference, `tool_calls[].function`)."""

NO_NAME = "unnamed_tool"
"""In place of a name that is empty."""

NO_RESULT = "Error: the call was not completed"
"""In place of a result that is not there."""


def repaired(messages: tuple[Message, ...]) -> History:
    """The messages as every provider takes them; the same object when they were repaired before.

    A call's arguments are a JSON object, its name is one that a tool may have, and its id is there, once in a message.
    The results of a message's calls stand right behind it, one for each call and none besides. An assistant's message
    has a text or calls.

    Args:
        messages: A conversation, oldest first.
    """
    if isinstance(messages, History):
        return messages
    for message in messages:  # every run comes through here: most histories are texts alone, and there is nothing to do
        if message.role == "user" or message.role == "system":
            continue
        text = message.content
        if message.role == "tool" or message.tool_calls or not text or text.isspace():
            break
    else:
        return History(messages)
    return History(_with_results(messages))


def repaired_reply(message: Message) -> Message:
    """An assistant's message with calls that every provider takes back; the same object when they are so already."""
    if not message.tool_calls:
        return message
    calls: list[ToolCall] = []
    for call in message.tool_calls:
        calls.append(_repaired_call(call, calls))
    return message if tuple(calls) == message.tool_calls else replace(message, tool_calls=tuple(calls))


def is_blank(text: str) -> bool:
    """Whether a text says nothing."""
    return not text or text.isspace()


def _with_results(messages: Sequence[Message]) -> Sequence[Message]:
    made: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            continue  # it has been put behind its call, or has none
        if not message.tool_calls:
            if message.role != "assistant" or not is_blank(message.content):
                made.append(message)
            continue
        repaired = repaired_reply(message)
        made.append(repaired)
        found = _results(message.tool_calls, islice(messages, index + 1, None))
        for call, result in zip(repaired.tool_calls, found, strict=True):
            answered = Message("tool", NO_RESULT) if result is None else result
            same_id = answered.tool_call_id == call.id
            made.append(answered if same_id else replace(answered, tool_call_id=call.id))
    return made


def _results(calls: Sequence[ToolCall], after: Iterable[Message]) -> list[Message | None]:
    """The result of each call among the messages behind it, until the calls of another message have one of its ids."""
    results: list[Message | None] = [None] * len(calls)
    waiting: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        waiting.setdefault(call.id, []).append(index)
    for message in after:
        for call in message.tool_calls:
            waiting.pop(call.id, None)
        if message.role == "tool" and (indexes := waiting.get(message.tool_call_id or "")):
            results[indexes.pop(0)] = message
            if not indexes:
                del waiting[message.tool_call_id or ""]
        if not waiting:
            break
    return results


def _repaired_call(call: ToolCall, before: Sequence[ToolCall]) -> ToolCall:
    name = call.name if _NAME.fullmatch(call.name) else re.sub(r"[^a-zA-Z0-9_-]", "_", call.name)[:64] or NO_NAME
    arguments = call.arguments if _is_object(call.arguments) else _as_object(call.arguments)
    is_its_own = call.id and call.id not in [other.id for other in before]
    if is_its_own and name is call.name and arguments is call.arguments:
        return call
    return ToolCall(name, arguments, call.id if is_its_own else None, call.provider_data)


def _is_object(arguments: str) -> bool:
    if arguments == "{}":
        return True
    if not arguments.startswith("{"):
        return False
    try:
        from_json(arguments, allow_inf_nan=False)
    except ValueError:
        return False
    return True


def _as_object(arguments: str) -> str:
    """An object that shows what the model wrote in its place: the tool's result says what was wrong with it."""
    value: Any = arguments
    try:
        value = from_json(arguments, allow_inf_nan=False)
    except ValueError:
        if is_blank(arguments):
            return "{}"
    if isinstance(value, dict):  # behind white space
        return arguments.strip()
    return "{}" if value is None else json.dumps({"invalid_arguments": value})
