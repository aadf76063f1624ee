"""One user's chat: what its page shows, and the events that tell of every change.

The interface writes into a `Chat`; each open page reads its events at its own pace, by a number. One that has fallen
behind what is kept, or comes from another process, gets the whole state first: nobody's slowness holds memory.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from definable.json_text import json_bytes

MAX_EVENTS = 1_000
"""Kept for pages that come back."""

MAX_EVENT_BYTES = 128 * 1024
"""Of these events, together."""

MAX_ENTRIES = 200
"""Messages that a page is shown."""

MAX_ENTRY_CHARACTERS = 200_000
"""Of these messages, together; the newest is always among them."""

MAX_READ = 64 * 1024
"""Bytes of events that a page is sent at once."""

WORKING_SECONDS = 12.0
"""After which an answer that nothing is heard of counts as one that another replica makes: three times as long as from
one `typing` to the next."""


@dataclass(slots=True)
class Entry:
    """A message as the page shows it."""

    id: str
    role: str
    """`"user"` or `"agent"`."""
    text: str
    answers: str = ""
    """Of the agent's: the id of the message that it answers."""
    is_draft: bool = False
    """Whether more of it is to come."""
    extra: dict[str, Any] = field(default_factory=dict[str, Any])
    """Buttons, files, and how many images a user's message has."""

    def document(self) -> dict[str, Any]:
        """As the page gets it."""
        return {"id": self.id, "role": self.role, "text": self.text, "draft": self.is_draft, **self.extra}


@dataclass(slots=True)
class Waiting:
    """A message whose answer is to come; seconds of the event loop's clock."""

    since: float
    heard: float
    """When something was heard of its answer last."""


class Chat:
    """What one user's pages show.

    Args:
        user_id: Whose it is.
    """

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.is_loaded: bool = False
        """Whether the conversation of before was read from the session store."""
        self.loading: anyio.Lock = anyio.Lock()
        """Held while that is done."""
        self.streams: deque[Stream] = deque()
        """Open pages, the oldest first."""
        self.changed: anyio.Event = anyio.Event()
        """Set, and replaced, at every change."""
        self._run = secrets.token_urlsafe(6)
        """Distinguishes event ids of this chat from those of another process."""
        self._number = 0
        self._events: deque[tuple[int, bytes]] = deque()
        self._event_bytes = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._characters = 0
        self._waiting: dict[str, Waiting] = {}
        """The messages whose answers are to come."""
        self._commands: dict[str, str] = {}

    # --- what happens

    def said(self, id: str, text: str, images: int) -> bool:
        """The user has said something; False where that is known."""
        if id in self._entries:
            return False
        self._put(Entry(id, "user", text, extra={"images": images} if images else {}))
        return True

    def works_on(self, id: str, now: float) -> None:
        """An answer to a message is to come, or was heard of."""
        waiting = self._waiting.get(id)
        if waiting is not None:
            waiting.heard = now
            return
        self._waiting[id] = Waiting(now, now)
        if len(self._waiting) == 1:
            self._emit("busy", {"busy": True})

    def ended(self, id: str) -> None:
        """Nothing more comes in answer to a message: what came is whole."""
        for entry in [each for each in self._entries.values() if each.is_draft and each.answers == id]:
            self._finish(entry)
        if self._waiting.pop(id, None) is not None and not self._waiting:
            self._emit("busy", {"busy": False})

    def answered(self, id: str, answers: str, text: str, extra: dict[str, Any], *, is_draft: bool = False) -> None:
        """The agent says something; what it shows beside its text goes under a text that is there already."""
        shown = next((each for each in reversed(self._entries.values()) if each.answers == answers), None)
        if not text and shown is not None:
            shown.extra |= extra
            self._finish(shown)
        else:
            self._put(Entry(id, "agent", text, answers, is_draft, extra))

    def grown(self, id: str, text: str) -> bool:
        """A draft has another text, which mostly continues what it was; False where there is no such draft."""
        entry = self._entries.get(id)
        if entry is None:
            return False
        if text.startswith(entry.text):
            if len(text) > len(entry.text):
                self._emit("delta", {"id": id, "text": text[len(entry.text) :]})
        else:
            self._emit("entry", {**entry.document(), "text": text})
        self._characters += len(text) - len(entry.text)
        entry.text = text
        return True

    def withdrawn(self, id: str) -> None:
        """A draft that the answer no longer needs, or what the user said and was not accepted."""
        self._remove(id)

    def show_commands(self, commands: dict[str, str]) -> None:
        """What may be typed after a slash."""
        if commands != self._commands:
            self._commands = commands
            self._emit("commands", {"commands": commands})

    def load(self, entries: Sequence[Entry]) -> None:
        """Show a conversation of before in place of what is there; pages get the whole state."""
        self.is_loaded = True
        if not entries and not self._entries:
            return
        kept = [each for each in self._entries.values() if each.id in self._waiting]
        self._entries.clear()
        self._characters = 0
        for entry in [*entries, *kept]:
            self._entries[entry.id] = entry
            self._characters += len(entry.text)
        self._trim()
        self._events.clear()  # older numbers lead to the state
        self._event_bytes = 0
        self._number += 1
        self._notify()

    # --- what pages read

    @property
    def is_busy(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nobody watches, and no answer is to come."""
        return not self.streams and not self._waiting

    @property
    def waiting_count(self) -> int:
        """Messages whose answers are to come."""
        return len(self._waiting)

    def unheard_of(self, now: float) -> Sequence[tuple[str, str, float]]:
        """Messages whose answers nothing was heard of for a while: id, text, and seconds since each was accepted.

        They count as heard of now: they are returned once in that while.
        """
        late = [id for id, waiting in self._waiting.items() if now - waiting.heard > WORKING_SECONDS]
        for id in late:
            self._waiting[id].heard = now
        return [(id, entry.text, now - self._waiting[id].since) for id in late if (entry := self._entries.get(id))]

    def has_button(self, value: str) -> bool:
        """Whether one of the messages that are shown has such a button."""
        rows = (row for entry in self._entries.values() for row in entry.extra.get("buttons", ()))
        return any(button.get("value") == value for row in rows for button in row)

    def position(self, last_event_id: str) -> int | None:
        """The number of the event that a page has; None where the whole state must come first."""
        run, _, number = last_event_id.rpartition("-")
        if run != self._run or not number.isdecimal() or len(number) > 15:
            return None
        return self._readable(int(number))

    def read(self, position: int | None) -> tuple[bytes, int]:
        """What has happened since an event, as server-sent events; empty where nothing has.

        Args:
            position: The number of the last event that the page has; None for the whole state.

        Returns:
            The bytes, and the number of the last event in them.
        """
        start = None if position is None else self._readable(position)
        if start is None:
            return self._event(self._number, "state", self.state()), self._number
        found, size = list[bytes](), 0
        for number, event in self._events:
            if number > start and size < MAX_READ:
                found.append(event)
                size += len(event)
                start = number
        return b"".join(found), start

    def state(self) -> dict[str, Any]:
        """All that a page shows."""
        entries = [each.document() for each in self._entries.values()]
        return {"entries": entries, "busy": self.is_busy, "commands": self._commands}

    # --- within

    def _readable(self, number: int) -> int | None:
        first = self._events[0][0] if self._events else self._number + 1
        return number if first - 1 <= number <= self._number else None

    def _put(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._characters += len(entry.text)
        self._trim()
        self._emit("entry", entry.document())

    def _finish(self, entry: Entry) -> None:
        entry.is_draft = False
        self._emit("done", {"id": entry.id, **entry.extra})

    def _remove(self, id: str) -> None:
        entry = self._entries.pop(id, None)
        if entry is not None:
            self._characters -= len(entry.text)
            self._emit("remove", {"id": id})

    def _trim(self) -> None:
        while len(self._entries) > 1 and (len(self._entries) > MAX_ENTRIES or self._characters > MAX_ENTRY_CHARACTERS):
            self._characters -= len(self._entries.popitem(last=False)[1].text)

    def _emit(self, kind: str, data: dict[str, Any]) -> None:
        self._number += 1
        event = self._event(self._number, kind, data)
        self._events.append((self._number, event))
        self._event_bytes += len(event)
        while len(self._events) > MAX_EVENTS or (self._event_bytes > MAX_EVENT_BYTES and len(self._events) > 1):
            self._event_bytes -= len(self._events.popleft()[1])
        self._notify()

    def _event(self, number: int, kind: str, data: dict[str, Any]) -> bytes:
        return b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (self._run.encode(), number, kind.encode(), json_bytes(data))

    def _notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def wake(self) -> None:
        """Have every open page look again."""
        self._notify()


@dataclass(slots=True, eq=False)
class Stream:
    """One open page."""

    is_replaced: bool = False
    """Whether newer pages of the same user have taken its place."""
