"""A reply that is shown while it is being written: what to post or edit, and when. Pure.

`streamed_reply.py` tells it what happens in the run, and does what it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from definable.agent.run_event import RunEvent, TextDelta, ToolCallStarted

from .splitting import split_text


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of the text that is not shown as it is now."""

    index: int
    """Which of the pieces."""
    text: str
    posted: str | None
    """The id of the message that is to show it; None: a message is to be posted."""


@dataclass(slots=True)
class _Posted:
    id: str
    text: str | None
    """What it shows; None when nobody knows."""


class ReplyDraft:
    """What a run has written so far, and what of it is shown.

    Nothing is shown until `interval` seconds after the first text: a quick reply comes whole. Then one thing is done
    every `interval` seconds. Times are seconds of any clock that never goes back.

    Args:
        limit: UTF-16 code units of one message.
        interval: Seconds from one change of what is shown to the next.
    """

    def __init__(self, limit: int, interval: float) -> None:
        self.is_given_up = False
        """Whether nothing more is shown before the end."""
        self._limit = limit
        self._interval = interval
        self._text: list[str] = []
        self._is_turn_over = False
        self._is_shown_whole = True
        self._not_before: float | None = None
        """The next change; None before the first text."""
        self._posted: list[_Posted] = []

    def hear(self, event: RunEvent, now: float) -> None:
        """Take in what happens in the run; what the model writes after its tools were called takes the place of what it
        wrote before.
        """
        if isinstance(event, ToolCallStarted):
            self._is_turn_over = True
        elif isinstance(event, TextDelta):
            if self._is_turn_over:
                self._text.clear()
                self._is_turn_over = False
            self._text.append(event.text)
            self._is_shown_whole = False
            if self._not_before is None:
                self._not_before = now + self._interval

    @property
    def due(self) -> float | None:
        """When to show what comes next; None while there is nothing."""
        return None if self._is_shown_whole or self.is_given_up else self._not_before

    def next_change(self) -> Change | None:
        """What to show next; None when all is shown."""
        text = "".join(self._text)
        self._text = [text]
        change = next(self.changes(text), None)
        self._is_shown_whole = change is None
        return change

    def changes(self, text: str) -> Iterator[Change]:
        """What is missing until a text is shown, from its beginning on."""
        for index, piece in enumerate(split_text(text, self._limit)):
            posted = self._posted[index] if index < len(self._posted) else None
            if posted is None or posted.text != piece:
                yield Change(index, piece, None if posted is None else posted.id)

    def surplus(self, text: str) -> Sequence[str]:
        """The ids of messages that have no piece of a text to show."""
        return [each.id for each in self._posted[len(split_text(text, self._limit)) :]]

    @property
    def count(self) -> int:
        """How many messages were posted."""
        return len(self._posted)

    def pause(self, now: float) -> float:
        """Seconds until the next change may be made."""
        return 0.0 if self._not_before is None else max(0.0, self._not_before - now)

    def began(self, change: Change, now: float) -> None:
        """A change is being made: until it is known to be, nobody knows what its message shows."""
        self._not_before = now + self._interval
        if change.posted is not None:
            self._posted[change.index].text = None

    def made(self, change: Change, posted: str, now: float) -> None:
        """A change was made.

        Args:
            change: Which.
            posted: The id of the message that shows it.
            now: When.
        """
        self._not_before = now + self._interval
        if change.posted is None:
            self._posted.append(_Posted(posted, change.text))
        else:
            self._posted[change.index].text = change.text

    def hold(self, until: float) -> None:
        """Change nothing until then."""
        self._not_before = until
