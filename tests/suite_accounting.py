"""Watches over the whole suite, as a pytest plugin that `conftest.py` names: no test leaves anything behind.

After every async test the event loop has the tasks that it had before; after every test nothing runs in a thread that
did not run before; and a child process that a test started is gone when the session ends.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import AsyncGenerator, Generator

import anyio.lowlevel
import psutil
import pytest
from orphans import living_children, living_tasks, living_threads

TURNS = 100
"""Turns of the event loop that what is about to end may take: closing transports, finalisers of generators."""

THREAD_LIMIT = 2.0
"""Seconds that a thread which was told to end may take."""

CHILDREN: pytest.StashKey[dict[int, str]] = pytest.StashKey()
"""Child processes that were there after a test, and the first such test of each."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CHILDREN] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Watch the tasks of the tests that anyio's plugin runs in an event loop, which it finds in the same way."""
    if not collector.istestfunction(obj, name):
        return
    function = getattr(getattr(obj, "hypothesis", None), "inner_test", obj)
    marks = [*collector.iter_markers("anyio"), *getattr(obj, "pytestmark", ())]
    if inspect.iscoroutinefunction(function) and any(mark.name == "anyio" for mark in marks):
        pytest.mark.usefixtures("no_orphan_tasks")(obj)  # type: ignore[operator]


@pytest.fixture
async def no_orphan_tasks(anyio_backend: object) -> AsyncGenerator[None, None]:
    """Fails a test after which tasks are left that were not there before."""
    before = living_tasks()
    yield
    turns = 0
    while (left := tasks_of_the_test() - before) and turns < TURNS:
        turns += 1
        await anyio.lowlevel.checkpoint()
    assert not left, f"tasks are left: {left}"


def tasks_of_the_test() -> set[object]:
    """The tasks, less those in which anyio's plugin runs tests and fixtures."""
    return {task for task in living_tasks() if "TestRunner." not in repr(task)}


@pytest.fixture(autouse=True)
def no_orphan_threads(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Fails a test after which threads run that did not run before."""
    before = living_threads()
    yield
    end = time.monotonic() + THREAD_LIMIT
    while (left := living_threads() - before) and time.monotonic() < end:
        time.sleep(0.001)
    assert not left, f"threads are left: {left}"
    if has_children():
        seen = request.config.stash[CHILDREN]
        for pid in living_children():
            seen.setdefault(pid, request.node.nodeid)


def has_children() -> bool:
    """Whether this process has children; as cheap as a system call."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session after which child processes are left; those of its own fixtures are gone by now."""
    left = {pid: test for pid, test in session.config.stash[CHILDREN].items() if is_running_child(pid)}
    assert not left, f"child processes are left, first seen after: {left}"


def is_running_child(pid: int) -> bool:
    """Whether the process is still there, and a child of this one."""
    try:
        process = psutil.Process(pid)
        return process.ppid() == os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
