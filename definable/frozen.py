"""Frozen, slotted dataclasses that cost half as much to make: for what travels with every request.

`@dataclass(frozen=True, slots=True)` sets each field by `object.__setattr__`, which looks it up by its name: a quarter
of a microsecond a field, and a run over HTTP sets sixty. Here `__init__` sets each slot by its descriptor. What that
gains stands in `docs/performance.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, TypeVar, cast, dataclass_transform

Class = TypeVar("Class", bound=type[Any])


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: Class) -> Class:
    """Make a class a frozen, slotted dataclass: one that is made from its fields, all of them and nothing else."""
    made: Any = dataclass(frozen=True, slots=True)(cls)
    known: dict[str, Any] = {"MISSING": MISSING}
    parameters, lines = ["self"], [""]
    for each in fields(made):
        name, parameter, value = each.name, each.name, each.name
        known[f"set_{name}"] = getattr(made, name).__set__
        if each.default_factory is not MISSING:
            known[f"make_{name}"] = each.default_factory
            parameter, value = f"{name}=MISSING", f"make_{name}() if {name} is MISSING else {name}"
        elif each.default is not MISSING:
            known[f"default_{name}"] = each.default
            parameter = f"{name}=default_{name}"
        parameters.append(parameter)
        lines.append(f"    set_{name}(self, {value})")
    source = f"def __init__({', '.join(parameters)}):" + "\n".join(lines)
    exec(source, known)  # as `dataclass` makes its own
    init = known["__init__"]
    init.__module__, init.__qualname__ = made.__module__, f"{made.__qualname__}.__init__"
    init.__annotations__ = made.__init__.__annotations__
    made.__init__ = init
    made.__setattr__ = _refuse_change
    return made


def setters_of(cls: type[Any]) -> tuple[Callable[[Any, Any], None], ...]:
    """What sets each field of a frozen, slotted dataclass, in their order: for an `__init__` of its own."""
    return tuple([getattr(cls, each.name).__set__ for each in fields(cls)])


def made_when_asked_for(cls: type[Any], name: str, make: Callable[[Any], Any], doc: str) -> None:
    """Have a frozen class make a field's value from what it was given when it is first read, and then keep it.

    Args:
        cls: A class that `frozen` made.
        name: The field.
        make: From what the field was given, if that is not None, to its value; of that value it makes the same.
        doc: What the field is.
    """
    slot = cls.__dict__[name]

    def value(self: Any) -> Any:
        given = slot.__get__(self)
        if given is None:
            return None
        made = make(given)
        if made is not given:
            slot.__set__(self, made)
        return made

    setattr(cls, name, property(value, doc=doc))


def _refuse_change(self: Any, name: str, value: object) -> None:
    kind = cast("type[Any]", type(self)).__name__
    way_out = f"dataclasses.replace(..., {name}=...) makes a changed one"
    if isinstance(getattr(self, name, None), dict):
        way_out = f"change what is in the dict, .{name}.update(...), or " + way_out
    raise FrozenInstanceError(f"{kind} is read-only: {way_out}")
