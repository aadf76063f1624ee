"""A handler's name, the same in every process of its program: a durable bus keeps it over restarts and replicas."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from os.path import basename, splitext
from typing import Any


def qualified_name(handler: Callable[..., Any] | None) -> str:
    """A handler's module and qualified name; of a `partial` its function's, of a callable object its class's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    name: str = getattr(handler, "__qualname__", type(handler).__qualname__)
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
