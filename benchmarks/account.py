"""What came of a question: the rounds' numbers, their medians and ratios. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .question import Column, Contender, Question


@dataclass(slots=True)
class Outcome:
    """What came of one contender."""

    missing: tuple[str, ...] = ()
    """The distributions that it needs and that are not installed: it was not measured."""
    failure: str | None = None
    """Why it could not be measured."""
    values: list[Mapping[str, float]] = field(default_factory=list[Mapping[str, float]])
    """Its numbers, round by round."""

    @property
    def status(self) -> str:
        """In one word or two."""
        if self.missing:
            return "not installed"
        return "measured" if self.failure is None else "failed"


@dataclass(frozen=True, slots=True)
class Account:
    """A question's answer."""

    question: Question
    outcomes: Mapping[str, Outcome]
    """By the contender's name."""

    def number(self, contender: Contender, column: Column) -> float | None:
        """The median over the rounds; None where the contender was not measured."""
        outcome = self.outcomes[contender.name]
        if outcome.status != "measured" or not outcome.values:
            return None
        return median(value[column.key] for value in outcome.values)

    def ratio(self, contender: Contender, column: Column) -> float | None:
        """How many times the baseline's number it is: the median of the rounds' own ratios.

        None where a ratio says nothing, or one of the two was not measured.
        """
        baseline = self.question.contenders[0]
        if not column.has_ratio or self.number(contender, column) is None or self.number(baseline, column) is None:
            return None
        pairs = zip(self.outcomes[contender.name].values, self.outcomes[baseline.name].values, strict=True)
        ratios = [own[column.key] / other[column.key] for own, other in pairs if other[column.key] > 0]
        return median(ratios) if ratios else None

    def meets_target(self, contender: Contender, column: Column) -> bool | None:
        """Whether one of ours is within the target; None where there is none, or no number."""
        number = self.ratio(contender, column) if column.target_is_ratio else self.number(contender, column)
        if not contender.ours or column.target is None or number is None:
            return None
        return number >= column.target if column.at_least else number <= column.target

    def to_json(self) -> dict[str, Any]:
        """For `--json`: every round's numbers, and what they come to."""
        return {
            "asks": self.question.asks,
            "baseline": self.question.contenders[0].name,
            "columns": {column.key: {"title": column.title, "target": column.target} for column in self.columns},
            "contenders": {contender.name: self._contender_to_json(contender) for contender in self.contenders},
        }

    @property
    def columns(self) -> tuple[Column, ...]:
        """The question's."""
        return self.question.columns

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """The question's."""
        return self.question.contenders

    def _contender_to_json(self, contender: Contender) -> dict[str, Any]:
        outcome = self.outcomes[contender.name]
        return {
            "status": outcome.status,
            "missing": list(outcome.missing),
            "failure": outcome.failure,
            "rounds": [dict(value) for value in outcome.values],
            "median": {column.key: self.number(contender, column) for column in self.columns},
            "ratio": {column.key: self.ratio(contender, column) for column in self.columns},
            "meets_target": {column.key: self.meets_target(contender, column) for column in self.columns},
        }
