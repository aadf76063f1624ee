"""The rooms name what there is, and share nothing."""

from collections import Counter
from pathlib import Path

import pytest

from .rooms import ROOMS, Room

ROOT = Path(__file__).parents[2]


def test_no_module_is_in_two_rooms() -> None:
    modules = Counter(module for room in ROOMS.values() for module in room.modules(ROOT))
    assert {module for module, count in modules.items() if count > 1} == set()


def test_rooms_that_share_a_package_leave_none_of_it_out() -> None:
    modules = {module for room in ROOMS.values() for module in room.modules(ROOT)}
    packages = {room.package for room in ROOMS.values()}
    assert modules == {str(file.relative_to(ROOT)) for it in packages for file in (ROOT / it).glob("*.py")}


@pytest.mark.parametrize("room", [pytest.param(room, id=name) for name, room in ROOMS.items()])
def test_a_room_names_modules_and_tests_that_there_are(room: Room) -> None:
    modules = {Path(module).stem for module in room.modules(ROOT)}
    tests = {file.name for file in (ROOT / room.tests).glob("*.py")}
    assert modules
    assert {name for name, _ in room.of_module} <= modules
    assert all(tests & set(named) for _, named in room.of_module)
