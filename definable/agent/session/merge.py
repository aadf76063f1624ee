"""Two runs, on two replicas, that began with the same session: what becomes of both. Pure.

`SessionService` calls it when a store refuses a save since another has saved in the meantime.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from definable.model.message import Message

from .base import Session
from .history import bounded


def merged(base: Session, mine: Session, theirs: Session) -> Session:
    """What I made of `base`, on top of what somebody else has made of it in the meantime.

    What I have said comes behind what they have said. Of the state, the keys that I have changed are mine.
    """
    gone, added = _change(base.messages, mine.messages)
    messages = theirs.messages + added
    if gone:  # mine was as long as it may be
        messages = bounded(messages, max(len(mine.messages), len(theirs.messages)))
    created_at = theirs.created_at or mine.created_at
    return replace(mine, messages=messages, state=_state(base.state, mine.state, theirs.state), created_at=created_at)


def _change(before: tuple[Message, ...], after: tuple[Message, ...]) -> tuple[int, tuple[Message, ...]]:
    """How many of the oldest messages were cut off, and which are new."""
    for gone in range(len(before)):
        kept = before[gone:]
        if after[: len(kept)] == kept:
            return gone, after[len(kept) :]
    return len(before), after


def _state(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in theirs.items() if key in mine or key not in base}
    return result | {key: value for key, value in mine.items() if key not in base or base[key] != value}
