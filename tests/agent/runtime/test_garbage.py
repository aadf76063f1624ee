"""How often cycles are looked for while a process serves."""

import gc

import pytest

from definable.agent.runtime.garbage import THRESHOLDS, rare_collection


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_cycles_are_looked_for_less_often_while_it_is_open():
    gc.set_threshold(700, 10, 10)
    with rare_collection():
        assert gc.get_threshold() == THRESHOLDS
    assert gc.get_threshold() == (700, 10, 10)


def test_what_the_user_set_stays():
    for own in [(0, 10, 10), (50_000, 100, 100)]:
        gc.set_threshold(*own)
        with rare_collection():
            assert gc.get_threshold() == own
