"""The event loop of `agent.run()` and `agent.serve()`."""

import importlib.util

import anyio
import pytest

from definable.agent.blocking import run_blocking


async def loop_type():
    await anyio.lowlevel.checkpoint()
    import asyncio

    return type(asyncio.get_running_loop()).__module__


def test_asyncio_runs_on_uvloop_where_it_is_installed():
    pytest.importorskip("uvloop")
    assert run_blocking(loop_type, instead="").startswith("uvloop")


def test_asyncio_runs_on_its_own_loop_where_it_is_not(monkeypatch):
    monkeypatch.setattr("definable.agent.blocking.find_spec", lambda name: None)
    assert run_blocking(loop_type, instead="").startswith("asyncio")


def test_trio_is_trio():
    async def statistics():
        import trio

        await anyio.lowlevel.checkpoint()
        return trio.lowlevel.current_statistics().tasks_living

    assert importlib.util.find_spec("trio") is not None
    assert run_blocking(statistics, instead="", backend="trio") > 0
