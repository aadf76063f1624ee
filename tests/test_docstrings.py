"""Every public name says what it is: what the packages export, and the methods and properties of exported classes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import pytest

PACKAGES = [
    "definable.agent",
    "definable.agent.auth",
    "definable.agent.bus",
    "definable.agent.interface",
    "definable.agent.runtime",
    "definable.agent.session",
    "definable.agent.trigger",
    "definable.model",
    "definable.testing",
]


def undocumented(package: str) -> Iterator[str]:
    module = importlib.import_module(package)
    for name in module.__all__:
        exported = getattr(module, name)
        if not (inspect.isclass(exported) or inspect.isfunction(exported)):
            continue
        if not inspect.getdoc(exported):
            yield name
        for member in dir(exported) if inspect.isclass(exported) else ():
            static = inspect.getattr_static(exported, member)
            function = static.fget if isinstance(static, property) else getattr(static, "__func__", static)
            is_ours = inspect.isfunction(function) and function.__module__.startswith("definable")
            if is_ours and not member.startswith("_") and not inspect.getdoc(getattr(exported, member)):
                yield f"{name}.{member}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    assert [*undocumented(package)] == []
