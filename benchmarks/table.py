"""An account as a table for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .account import Account
from .question import Column, Contender

GAP = "   "


def as_table(account: Account) -> str:
    """The question, a row for each contender, and the targets.

    A cell is the median over the rounds, then how many times the baseline's it is; `*` marks one of ours that misses
    its target.
    """
    question = account.question
    rows = [["", *[column.title for column in question.columns]]]
    rows += [[contender.name, *_cells(account, contender)] for contender in question.contenders]
    if any(column.target is not None for column in question.columns):
        rows.append(["target", *map(_target, question.columns)])
    return "\n".join([f"{question.name}: {question.asks}", "", *_aligned(rows)])


def _cells(account: Account, contender: Contender) -> list[str]:
    outcome = account.outcomes[contender.name]
    if outcome.status == "measured":
        return [_cell(account, contender, column) for column in account.columns]
    reason = ", ".join(outcome.missing) if outcome.missing else outcome.failure
    return [f"{outcome.status}: {reason}"]


def _cell(account: Account, contender: Contender, column: Column) -> str:
    number, ratio = account.number(contender, column), account.ratio(contender, column)
    if number is None:
        return "-"
    mark = "*" if account.meets_target(contender, column) is False else ""
    is_baseline = contender == account.contenders[0]
    return f"{_short(number)}{mark}" if ratio is None or is_baseline else f"{_short(number)}{mark} ({_short(ratio)}x)"


def _target(column: Column) -> str:
    if column.target is None:
        return ""
    bound = ">=" if column.at_least else "<="
    return f"{bound} {column.target:g}x" if column.target_is_ratio else f"{bound} {column.target:g}"


def _short(number: float) -> str:
    """Three digits or so: more than that is noise."""
    size = abs(number)
    return f"{number:,.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[index]) for row in full) for index in range(len(rows[0]))]
    widths[0] = max(len(row[0]) for row in rows)
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False)]
        yield GAP.join([name.ljust(widths[0]), *(padded if len(padded) > 1 or len(widths) == 2 else cells)]).rstrip()
