"""How much of a conversation is kept and sent, and what becomes of two runs that began with the same session. Pure.

`SessionService` merges when a store refuses a save, since another replica has saved in the meantime.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from definable.model.message import Message

from .base import Session


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
    begin = 0
    for begin in _beginnings(messages):
        if len(messages) - begin <= limit:
            break
    return messages[begin:]


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


def merged(base: Session, mine: Session, theirs: Session) -> Session:
    """What I made of `base`, on top of what somebody else has made of it in the meantime.

    What I have said comes behind what they have said. Of the state, the keys that I have changed are mine.
    """
    gone, added = change(base.messages, mine.messages)
    messages = theirs.messages + mine.messages[len(mine.messages) - added :]
    if gone:  # mine was as long as it may be
        messages = bounded(messages, max(len(mine.messages), len(theirs.messages)))
    created_at = theirs.created_at or mine.created_at
    return replace(mine, messages=messages, state=_state(base.state, mine.state, theirs.state), created_at=created_at)


def change(before: tuple[Message, ...], after: tuple[Message, ...]) -> tuple[int, int]:
    """How many of the oldest messages were cut off, and how many of the newest came."""
    for gone in range(len(before)):
        kept = before[gone:]
        if after[: len(kept)] == kept:
            return gone, len(after) - len(kept)
    return len(before), len(after)


def _state(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in theirs.items() if key in mine or key not in base}
    return result | {key: value for key, value in mine.items() if key not in base or base[key] != value}
