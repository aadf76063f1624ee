"""A function's annotations as types, also those that are strings; one at a time, so that an error can name its own.

`tool_schema.py` resolves with it; `tool.py` saves what strings need of an enclosing function while it is there.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .run_context import RunContext


def written_function(function: Callable[..., Any]) -> Any:
    """The function whose `def` a callable goes back to: under partials, methods, decorators and callable objects."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
        elif inspect.ismethod(function):
            function = function.__func__
        elif inspect.isroutine(function) or inspect.isclass(function):
            return function
        else:
            function = type(function).__call__


def namespace_of(function: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """What the string annotations of a written function may refer to.

    Args:
        function: From `written_function`.
        names: Further names, of an enclosing function.
    """
    if inspect.isclass(function):
        function = function.__init__
    # RunContext is often imported for type checkers alone.
    namespace: dict[str, Any] = {"RunContext": RunContext, **getattr(function, "__globals__", {}), **names}
    return {**namespace, **dict(_closure(function))}


def resolve(annotation: Any, namespace: dict[str, Any]) -> Any:
    """The type that an annotation stands for.

    Raises:
        NameError: It refers to a name that does not exist.
    """
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, namespace, include_extras=True)["it"]


def is_run_context(annotation: Any) -> bool:
    """Whether a type is `RunContext`, maybe None, maybe `Annotated`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return is_run_context(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(is_run_context(member) for member in typing.get_args(annotation))
    return annotation is RunContext


def enclosing_names(function: Any, depth: int) -> dict[str, Any]:
    """What the string annotations of a nested function take from the function around it, which runs now.

    A closure holds only what the body uses, and a class that appears in an annotation alone is gone with the frame.

    Args:
        function: Perhaps a nested one.
        depth: How many frames above the caller the function around it runs.
    """
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return {}
    variables = sys._getframe(depth + 1).f_locals  # pyright: ignore[reportPrivateUsage]
    return {name: variables[name] for name in _names_in_strings(function) if name in variables}


def _names_in_strings(function: Any) -> Iterator[str]:
    try:
        annotations = dict(function.__annotations__)
    except (AttributeError, NameError):  # NameError: Python 3.14 evaluates here
        return
    for annotation in annotations.values():
        if isinstance(annotation, str):
            try:
                yield from compile(annotation, "<annotation>", "eval").co_names
            except SyntaxError:
                continue


def _closure(function: Any) -> Iterator[tuple[str, Any]]:
    code = getattr(function, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
