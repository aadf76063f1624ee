"""What a question is made of. `questions/` fills these in, `rounds.py` acts on them, `table.py` prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, TypeAlias

from .effort import Effort


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is measured."""

    name: str
    subject: str
    """What the question's `measure` measures: the module of a framework or a service, or a statement."""
    backend: Literal["asyncio", "trio"] = "asyncio"
    needs: tuple[str, ...] = ()
    """The distributions without which it cannot be measured."""
    ours: bool = False
    """Whether the targets are about it."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The distributions it needs that are not installed."""
        return tuple(name for name in self.needs if installed_version(name) is None)


@dataclass(frozen=True, slots=True)
class Column:
    """One number of each contender."""

    key: str
    """Its name in what `measure` returns."""
    title: str
    """With its unit."""
    target: float | None = None
    """What ours should not exceed, or with `at_least` what it should reach."""
    at_least: bool = False
    """Whether more is better."""
    target_is_ratio: bool = False
    """Whether the target is a multiple of the baseline's number, rather than the number itself."""
    has_ratio: bool = True
    """Whether a multiple of the baseline's number says anything: not where that may be about zero."""


Measure: TypeAlias = Callable[[Contender, Effort], Mapping[str, float]]
"""Measures one contender, in a process of its own: a number for each column."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and how it is answered."""

    name: str
    asks: str
    contenders: tuple[Contender, ...]
    """The first is the baseline that the others are compared with."""
    columns: tuple[Column, ...]
    measure: Measure

    def contender(self, name: str) -> Contender:
        """The contender of that name.

        Raises:
            KeyError: There is none.
        """
        return {contender.name: contender for contender in self.contenders}[name]


def installed_version(distribution: str) -> str | None:
    """The version of a distribution; None when it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
