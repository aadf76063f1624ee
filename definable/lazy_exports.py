"""Re-exports that are loaded when first used (PEP 562), so that importing a package costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TypeAlias

from .original_library import MODULE_NAMES

GetAttribute: TypeAlias = Callable[[str], object]
"""A module's `__getattr__`."""


def lazy_exports(package: str, homes: Mapping[str, str]) -> GetAttribute:
    """A module's `__getattr__`.

    Args:
        package: The package's `__name__`.
        homes: The module of each name, relative to the package.
    """

    def __getattr__(name: str) -> object:
        home = homes.get(name)
        if home is None:
            hint = MODULE_NAMES.get(package, {}).get(name)
            if hint is not None:  # an AttributeError's words would not reach who writes `from ... import ...`
                raise ImportError(f"cannot import name {name!r} from {package!r}: {hint}", name=name)
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home, package), name)
        vars(import_module(package))[name] = value
        return value

    return __getattr__
