"""How triggers are told apart over restarts and replicas: pure.

What waits in an event bus belongs to its trigger by a key. It holds what a user sees, and no more than is needed: the
name or source, where triggers have that in common the handler's name too, then its module, then the arguments by which
handlers that were made in a loop differ. So a handler that is renamed or moved still gets what waits for it.
"""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from importlib.machinery import ModuleSpec
from os.path import basename, splitext
from pathlib import PurePath
from typing import Any, NamedTuple, cast
from uuid import UUID

from .base import BaseTrigger, Handler

PLAIN = (str, bytes, int, float, complex, date, time, timedelta, Decimal, PurePath, UUID, type(None))
"""Kinds of values that are written the same in every process."""

MAX_DEPTH = 4
"""Of the values within a value."""


class TriggerKeys(NamedTuple):
    """The keys of triggers."""

    by_key: Mapping[str, BaseTrigger]
    former: Mapping[str, BaseTrigger]
    """Other keys: those that a trigger would have among others, and those of earlier versions of this library."""
    alike: Sequence[Sequence[BaseTrigger]]
    """Those that nothing tells apart but the order of their registration."""


def keys_of(triggers: Sequence[BaseTrigger]) -> TriggerKeys:
    """The keys of triggers, none of which has another's."""
    by_key: dict[str, BaseTrigger] = {}
    alike: list[Sequence[BaseTrigger]] = []
    keys = {id(trigger): trigger.key for trigger in triggers}
    shared = _grouped(triggers, lambda trigger: keys[id(trigger)])
    for key, group in shared.items():
        for label, same in _told_apart(key, group):
            if len(same) > 1:
                alike.append(same)
            number = 1
            for trigger in same:
                unique = label
                while unique in by_key or (unique != key and unique in shared):
                    number += 1
                    unique = f"{label}#{number}"
                by_key[unique] = trigger
    in_order = {id(trigger): key for key, trigger in by_key.items()}
    ordered = {in_order[id(trigger)]: trigger for trigger in triggers}
    return TriggerKeys(ordered, _former(triggers, keys, ordered), alike)


def _grouped(
    triggers: Sequence[BaseTrigger], label: Callable[[BaseTrigger], str]
) -> Mapping[str, Sequence[BaseTrigger]]:
    groups: defaultdict[str, list[BaseTrigger]] = defaultdict(list)
    for trigger in triggers:
        groups[label(trigger)].append(trigger)
    return groups


def _told_apart(key: str, triggers: Sequence[BaseTrigger]) -> Iterator[tuple[str, Sequence[BaseTrigger]]]:
    """Labels of triggers that have a key in common, each with those that have the label in common."""
    if len(triggers) == 1:
        yield key, triggers
        return
    for short, same in _grouped(triggers, lambda trigger: f"{key}:{handler_name(trigger.handler)}").items():
        for full, namesakes in _grouped(same, lambda trigger: f"{key}:{qualified_name(trigger.handler)}").items():
            label = short if len(namesakes) == len(same) else full
            if len(namesakes) == 1:
                yield label, namesakes
            else:
                arguments = differing_arguments([trigger.handler for trigger in namesakes])
                texts = {id(trigger): text for trigger, text in zip(namesakes, arguments, strict=True)}
                yield from _grouped(namesakes, lambda trigger: label + texts[id(trigger)]).items()  # noqa: B023 - used at once


def _former(
    triggers: Sequence[BaseTrigger], keys: Mapping[int, str], by_key: Mapping[str, BaseTrigger]
) -> Mapping[str, BaseTrigger]:
    """Keys under which something may still wait; of several triggers it is the first one's."""
    former: dict[str, BaseTrigger] = {}
    numbers: dict[str, int] = {}
    for trigger in triggers:
        key = keys[id(trigger)]
        rest = key.removeprefix(trigger.source)
        qualified = qualified_name(trigger.handler)
        before = f"{trigger.source}:{qualified}{rest if rest != key else ''}"  # as the versions until 0.2 had it
        number = numbers[before] = numbers.get(before, 0) + 1
        if number > 1:
            before = f"{before}#{number}"
        for other in (before, key, f"{key}:{handler_name(trigger.handler)}", f"{key}:{qualified}"):
            if other not in by_key:
                former.setdefault(other, trigger)
    return former


def differing_arguments(handlers: Sequence[Handler | None]) -> Sequence[str]:
    """What tells handlers of one name apart: a digest, since keys are shown, of the arguments by which they differ.

    Others may change with each start, as a time or an id does.
    """
    found = [arguments_of(handler) for handler in handlers]
    names = dict.fromkeys(name for arguments in found for name in arguments)
    differing = [name for name in names if len({arguments.get(name) for arguments in found}) > 1]
    if not differing:
        return [""] * len(handlers)
    texts = [repr([arguments.get(name) for name in differing]) for arguments in found]
    return [f"({blake2b(text.encode(errors='backslashreplace'), digest_size=6).hexdigest()})" for text in texts]


def arguments_of(handler: Callable[..., Any] | None) -> Mapping[str, str]:
    """What a handler was made with: of a `partial` its arguments, of a function its defaults and the variables around
    it, of a method or a callable object its attributes."""
    found: dict[str, Any] = {}
    depth = 0
    while isinstance(handler, functools.partial):
        found |= {f"{depth}.{number}": value for number, value in enumerate(handler.args)}
        found = {**handler.keywords, **found}
        handler, depth = handler.func, depth + 1
    owner = getattr(handler, "__self__", None)
    function: Any = getattr(handler, "__func__", handler)
    code = getattr(function, "__code__", None)
    if code is None:
        owner = handler
    else:
        found |= {f"default.{number}": value for number, value in enumerate(function.__defaults__ or ())}
        keywords: dict[str, Any] = function.__kwdefaults__ or {}
        found |= {f"default.{name}": value for name, value in keywords.items()}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                found[f"variable.{name}"] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
    found |= {f"self.{name}": value for name, value in getattr(owner, "__dict__", {}).items()}
    return {name: text for name, value in found.items() if (text := _written(value)) is not None}


def _written(value: Any, depth: int = 0) -> str | None:
    """A value as text that is the same in every process; None where there is no such text."""
    if isinstance(value, Enum):
        return f"{qualified_name(type(value))}.{value.name}"
    if callable(value):
        return qualified_name(value)
    if isinstance(value, PLAIN):
        return repr(value)
    if depth == MAX_DEPTH:
        return None
    kind: str = type(value).__name__
    if is_dataclass(value):
        parts: list[Any] = [(each.name, getattr(value, each.name)) for each in fields(value)]
    elif isinstance(value, dict):
        parts = [*cast("dict[Any, Any]", value).items()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = [*cast("Sequence[Any]", value)]
    else:
        return None
    texts = [_written(part, depth + 1) for part in parts]
    if None in texts:
        return None
    written = cast("list[str]", texts)
    if isinstance(value, (set, frozenset)):
        written.sort()
    return f"{kind}({', '.join(written)})"


def handler_name(handler: Callable[..., Any] | None) -> str:
    """A handler's qualified name within its module; of a `partial` its function's, of a callable object its class's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    name: str = getattr(handler, "__qualname__", type(handler).__qualname__)
    return name


def qualified_name(handler: Callable[..., Any] | None) -> str:
    """A handler's module and qualified name; of a `partial` its function's, of a callable object its class's."""
    name = handler_name(handler)
    while isinstance(handler, functools.partial):
        handler = handler.func
    return f"{program_name(getattr(handler, '__module__', ''))}.{name}"


def program_name(module: str) -> str:
    """A module's name; for `__main__` the one by which `definable serve` and others import it."""
    if module != "__main__":
        return module
    main = sys.modules[module]
    spec: ModuleSpec | None = getattr(main, "__spec__", None)
    if spec is not None:  # python -m
        return spec.name.removesuffix(".__main__")
    file: str | None = getattr(main, "__file__", None)
    return module if file is None else splitext(basename(file))[0]
