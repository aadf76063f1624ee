"""The name of a handler's module, the same however its program is started: a durable bus keeps it over restarts."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from os.path import basename, splitext


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
