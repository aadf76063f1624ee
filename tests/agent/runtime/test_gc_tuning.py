"""How often cycles are looked for while a process serves."""

import gc
import threading

import pytest

from definable.agent import Agent
from definable.agent.runtime.lifespan import GC_THRESHOLDS, gc_tuning
from definable.agent.trigger import EventTrigger


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_cycles_are_looked_for_less_often_while_it_is_open():
    gc.set_threshold(700, 10, 10)
    with gc_tuning():
        assert gc.get_threshold() == GC_THRESHOLDS
    assert gc.get_threshold() == (700, 10, 10)


def test_what_the_user_set_stays():
    for own in [(0, 10, 10), (50_000, 100, 100)]:
        gc.set_threshold(*own)
        with gc_tuning():
            assert gc.get_threshold() == own


def test_of_services_that_overlap_the_last_to_end_puts_back_what_was_there():
    gc.set_threshold(700, 10, 10)
    agents = [Agent("offline"), Agent("offline")]
    options = {"host": "127.0.0.1", "port": 0, "handle_signals": False}
    threads = [threading.Thread(target=agent.serve, kwargs=options) for agent in agents]
    for agent, thread in zip(agents, threads, strict=True):
        begun = threading.Event()
        agent.emit("begun")
        agent.on(EventTrigger("begun"))(lambda event, begun=begun: begun.set())
        thread.start()
        assert begun.wait(10)
    seen: list[tuple[int, ...]] = []
    for agent, thread in zip(agents, threads, strict=True):
        seen.append(gc.get_threshold())
        assert agent.runtime is not None
        agent.runtime.stop()
        thread.join(10)
    assert [*seen, gc.get_threshold()] == [GC_THRESHOLDS, GC_THRESHOLDS, (700, 10, 10)]
