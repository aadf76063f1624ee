"""Where a change makes no difference to a test, by the kind of the place: pure, reads source text alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Position: TypeAlias = tuple[int, int]
"""Line from 1, column from 0, in characters."""

LOGGING = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})

SAME_FOR_SINGLETONS = frozenset({"core/ReplaceComparisonOperator_Is_Eq", "core/ReplaceComparisonOperator_IsNot_NotEq"})
"""Changes of operators that make no difference anywhere in this code: `is` is for singletons here."""


MARKER = re.compile(r"[*/](?=[,)])")
"""What parts a signature's parameters, which the tool takes for an operator."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of source."""

    start: Position
    end: Position

    def __contains__(self, position: Position) -> bool:
        return self.start <= position < self.end


def excluded(source: str) -> list[Span]:
    """The places of a module that are not mutated."""
    lines = source.splitlines()
    spans = [span_of(node, lines) for node in excluded_nodes(ast.parse(source))]
    for number, line in enumerate(lines, 1):
        spans += [Span((number, found.start()), (number, found.end())) for found in MARKER.finditer(line)]
    return spans


def excluded_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(annotation=ast.Name(id="TypeAlias"), value=ast.AST() as value):
                yield value
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=ast.AST() as annotation):
                yield annotation
            case ast.FunctionDef() | ast.AsyncFunctionDef() if is_abstract(node):
                yield node
            case ast.FunctionDef(returns=ast.AST() as returns) | ast.AsyncFunctionDef(returns=ast.AST() as returns):
                yield returns
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield node
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=attr))) if (
                attr in LOGGING
            ):
                yield node
            case ast.ClassDef():
                yield from excluded_of_class(node)


def is_abstract(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a class must define it: all that are made do."""
    return any(ast.unparse(decorator) == "abstractmethod" for decorator in node.decorator_list)


def excluded_of_class(node: ast.ClassDef) -> Iterator[ast.AST]:
    if any(ast.unparse(base).startswith("Protocol") for base in node.bases):
        yield from (*node.decorator_list, *node.body)
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "dataclass":
            yield from decorator.keywords


def span_of(node: ast.AST, lines: list[str]) -> Span:
    """Where a node stands; `ast` counts bytes, the tool counts characters. A decorator belongs to its function."""
    located = node if isinstance(node, ast.expr | ast.stmt | ast.keyword) else None
    assert located is not None and located.end_lineno is not None and located.end_col_offset is not None
    first = min((d.lineno for d in getattr(node, "decorator_list", ())), default=located.lineno)
    start = (first, 0) if first != located.lineno else (first, characters(lines[first - 1], located.col_offset))
    return Span(start, (located.end_lineno, characters(lines[located.end_lineno - 1], located.end_col_offset)))


def characters(line: str, offset: int) -> int:
    """A column in characters, of one in UTF-8 bytes."""
    return len(line.encode()[:offset].decode())
