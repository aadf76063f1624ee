"""A handler's module has one name, however its program is started."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from definable.agent.trigger.identity import program_name


def started_as(monkeypatch: pytest.MonkeyPatch, *, spec: str | None = None, file: str | None = None) -> None:
    main = ModuleType("__main__")
    main.__spec__ = None if spec is None else ModuleSpec(spec, None)
    if file is not None:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)


def test_a_module_that_was_imported_has_its_own_name() -> None:
    assert program_name("shop.orders") == "shop.orders"
    assert program_name("not.imported") == "not.imported"


def test_a_script_has_the_name_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    started_as(monkeypatch, file="/srv/bot.v2.py")
    assert program_name("__main__") == "bot.v2"


@pytest.mark.parametrize(("spec", "name"), [("shop.orders", "shop.orders"), ("shop.__main__", "shop"), ("bot", "bot")])
def test_a_module_that_was_run_has_the_name_by_which_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, spec: str, name: str
) -> None:
    started_as(monkeypatch, spec=spec, file="/srv/shop/orders.py")
    assert program_name("__main__") == name


def test_what_was_typed_in_stays_nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    started_as(monkeypatch)
    assert program_name("__main__") == "__main__"
