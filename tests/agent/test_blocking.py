"""The event loop of `agent.run()` and `agent.serve()`."""

import asyncio
import importlib.util
from contextvars import copy_context

import anyio
import pytest
from anyio import to_thread

from definable.agent import Agent
from definable.concurrency.event_loop import run_blocking


async def loop_type():
    await anyio.lowlevel.checkpoint()
    import asyncio

    return type(asyncio.get_running_loop()).__module__


def test_asyncio_runs_on_uvloop_where_it_is_installed():
    pytest.importorskip("uvloop")
    assert run_blocking(loop_type, instead="").startswith("uvloop")


def test_asyncio_runs_on_its_own_loop_where_it_is_not(monkeypatch):
    monkeypatch.setattr("definable.concurrency.event_loop.find_spec", lambda name: None)
    assert run_blocking(loop_type, instead="").startswith("asyncio")


def test_trio_is_trio():
    async def statistics():
        import trio

        await anyio.lowlevel.checkpoint()
        return trio.lowlevel.current_statistics().tasks_living

    assert importlib.util.find_spec("trio") is not None
    assert run_blocking(statistics, instead="", backend="trio") > 0


def test_a_thread_that_has_the_context_of_an_event_loop_runs_none():
    async def in_thread():
        return await asyncio.to_thread(Agent("offline").run, "hi")

    assert anyio.run(in_thread, backend="asyncio").content == "hi"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_may_bring_the_context_of_any_event_loop(backend):
    async def in_thread():
        return await to_thread.run_sync(copy_context().run, Agent("offline").run, "hi")

    assert anyio.run(in_thread, backend=backend).content == "hi"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_event_loop_is_seen(backend):
    async def within():
        await anyio.lowlevel.checkpoint()
        with pytest.raises(RuntimeError, match=f"{backend} runs in this thread already"):
            Agent("offline").run("hi")

    anyio.run(within, backend=backend)
