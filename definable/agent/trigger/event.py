"""Triggers of programmatic events: `agent.emit(name, data)` reaches every `EventTrigger` whose pattern matches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from inspect import iscoroutinefunction
from typing import TypeAlias, Unpack, cast

from definable.concurrency.call import takes
from definable.errors import ConfigurationError

from .base import BaseTrigger, TriggerEvent, TriggerOptions

EventKey: TypeAlias = Callable[[TriggerEvent], str | int | float | None]
"""What an event is about, so that those about the same are handled in order."""

SPECIAL = re.compile(r"[*?[\]]")
"""What ends a literal part of a glob."""


class EventTrigger(BaseTrigger):
    """Fires for emitted events.

    Args:
        event_name: An event's name, or a glob over names: `*`, `?` and `[...]`, with regard to case (`fnmatch`).
        pattern: The same as `event_name`.
        key: From an event to the key that it is about, a text or a number, such as the id of an order. Events of one
            key are handled one after the other, in the order in which the bus accepted them and over all replicas;
            those of different keys side by side. A retry holds up its own key alone; after a dead letter the key's
            next event is handled. None, from it or in its place: no order. It is called when the event is emitted,
            which fails with it.
        options: `timeout`, `max_concurrency`, `retries`, `name`: see `TriggerOptions`.

    Raises:
        ConfigurationError: The pattern is empty, or a value is out of its range.

    Example:
        >>> EventTrigger("user.*").matches("user.signup")
        True
    """

    def __init__(
        self,
        event_name: str = "",
        *,
        pattern: str | None = None,
        key: EventKey | None = None,
        **options: Unpack[TriggerOptions],
    ) -> None:
        super().__init__(**options)
        if key is not None and (not takes(key, 1) or iscoroutinefunction(key)):
            raise ConfigurationError(f"EventTrigger(key={key!r}): a function of the event, not async, or None")
        self.event_key: EventKey | None = key
        pattern = event_name if pattern is None else pattern
        if not isinstance(pattern, str) or not pattern.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"EventTrigger({pattern!r}): the name of an event, or a glob such as 'user.*'")
        self.pattern: str = pattern
        self._glob = re.compile(translate(pattern))

    @property
    def source(self) -> str:
        return f"event({self.pattern})"

    @property
    def event_name(self) -> str:
        """The same as `pattern`."""
        return self.pattern

    def matches(self, name: str) -> bool:
        """Whether events of this name fire the trigger."""
        return name == self.pattern or self._glob.match(name) is not None

    def key_of(self, event: TriggerEvent) -> str | None:
        """The key of an event; None where it is handled in no order.

        Raises:
            ConfigurationError: `key` failed, or returned neither a text nor a number.
        """
        if self.event_key is None:
            return None
        try:
            key: object = cast("object", self.event_key(event))  # the user's, whatever it says
        except Exception as error:
            raise ConfigurationError(f"the key of an event for {self!r} cannot be told: {error!r}") from error
        if key is None or isinstance(key, str):
            return key
        if not isinstance(key, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] - it is a user's function
            raise ConfigurationError(f"the key of an event for {self!r} is a text or a number, not {key!r}")
        return str(key)


Numbered: TypeAlias = list[tuple[int, EventTrigger]]
"""Triggers with their place in the order of registration."""


class EventIndex:
    """Finds the triggers of an event at the same cost among ten or ten thousand.

    A pattern is found by its text where it is a name, a glob by the literal text that it begins and ends with, and one
    that has neither by the longest between its wildcards. What is found so is tested; triggers with a `matches` of
    their own are always tested.

    Args:
        triggers: In the order of their registration.
    """

    __slots__ = ("_by_ends", "_by_name", "_by_part", "_others")

    def __init__(self, triggers: Iterable[EventTrigger]) -> None:
        self._by_name: dict[str, Numbered] = {}
        self._by_ends: dict[tuple[int, int], dict[tuple[str, str], Numbered]] = {}
        """By the lengths of both ends."""
        self._by_part: dict[int, dict[str, Numbered]] = {}
        """By the length of a text between wildcards."""
        self._others: Numbered = []
        for entry in enumerate(triggers):
            self._add(entry)

    def matching(self, name: str) -> Sequence[EventTrigger]:
        """The triggers that an event of this name fires, in the order of their registration."""
        found = dict(self._by_name.get(name, ()))
        for (before, after), by_ends in self._by_ends.items():
            entries = by_ends.get((name[:before], name[-after:] if after else ""))
            if entries is not None:
                found.update(_tested(entries, name))
        for length, by_part in self._by_part.items():
            for text in {name[begin : begin + length] for begin in range(len(name) - length + 1)}:
                if (entries := by_part.get(text)) is not None:
                    found.update(_tested(entries, name))
        if self._others:
            found.update(_tested(self._others, name))
        return [*found.values()] if len(found) < 2 else [found[number] for number in sorted(found)]

    def _add(self, entry: tuple[int, EventTrigger]) -> None:
        trigger = entry[1]
        pattern = trigger.pattern
        if type(trigger).matches is not EventTrigger.matches:
            self._others.append(entry)
            return
        self._by_name.setdefault(pattern, []).append(entry)
        texts = SPECIAL.split(pattern)
        if len(texts) == 1:
            return
        first, *between, last = texts
        part = "" if "[" in pattern else max(between, key=len, default="")
        if first or last or not part:
            self._by_ends.setdefault((len(first), len(last)), {}).setdefault((first, last), []).append(entry)
        else:
            self._by_part.setdefault(len(part), {}).setdefault(part, []).append(entry)


def _tested(entries: Numbered, name: str) -> Numbered:
    return [entry for entry in entries if entry[1].matches(name)]
