"""`frozen` makes what `dataclass(frozen=True, slots=True)` makes, only its `__init__` is another."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from typing import Any

import pytest

from definable.frozen import frozen


@frozen
class Ours:
    """A value."""

    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Theirs:
    """A value."""

    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list[str])


ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}),
    (("a", 2), {}),
    (("a", 2, ["x"]), {}),
    ((), {"name": "a", "tags": ["y"]}),
]


@pytest.mark.parametrize(("arguments", "named"), ARGUMENTS)
def test_it_is_made_from_the_same_arguments_and_says_the_same(arguments: tuple[Any, ...], named: dict[str, Any]):
    ours, theirs = Ours(*arguments, **named), Theirs(*arguments, **named)
    assert asdict(ours) == asdict(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours == Ours(*arguments, **named) != Ours("another")


@pytest.mark.parametrize(("arguments", "named"), [((), {}), (("a", 1, [], 4), {}), (("a",), {"colour": 1})])
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], named: dict[str, Any]):
    with pytest.raises(TypeError, match=r"__init__\(\)"):
        Ours(*arguments, **named)


def test_nobody_can_change_it_or_add_to_it():
    ours = Ours("a")
    with pytest.raises(FrozenInstanceError):
        ours.name = "b"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FrozenInstanceError):
        del ours.name
    with pytest.raises((AttributeError, TypeError)):
        ours.colour = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(ours, "__dict__")


class Plain(Ours):
    """A class of another layout."""


@frozen
class Larger(Ours):
    """With a field more."""

    colour: str = "red"


def test_it_can_be_derived_from():
    plain = Plain("a", tags=["x"])
    assert (type(plain), plain.name, plain.size, plain.tags) == (Plain, "a", 1, ["x"])
    with pytest.raises(FrozenInstanceError):
        plain.name = "b"  # pyright: ignore[reportAttributeAccessIssue]
    assert asdict(Larger("a", 2, [])) == {"name": "a", "size": 2, "tags": [], "colour": "red"}


def test_each_is_given_a_default_of_its_own():
    assert Ours("a").tags is not Ours("a").tags


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_it_can_be_copied_and_replaced(again: Any):
    assert again(Ours("a", 2, ["x"])) == Ours("a", 2, ["x"])
    assert replace(Ours("a", 2), size=3) == Ours("a", 3)


def test_tools_that_look_at_it_see_a_dataclass():
    assert [each.name for each in fields(Ours)] == ["name", "size", "tags"]  # pyright: ignore[reportArgumentType]
    assert Ours.__init__.__annotations__ == Theirs.__init__.__annotations__
    assert (Ours.__init__.__module__, Ours.__init__.__qualname__) == (__name__, "Ours.__init__")
    assert list(inspect.signature(Ours).parameters) == ["name", "size", "tags"]
    assert inspect.signature(Ours).parameters["size"].default == 1
    assert Ours.__doc__ == "A value."
