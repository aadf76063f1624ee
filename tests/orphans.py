"""What must not outlive what began it: tasks of the running event loop, threads, child processes, open files."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import psutil
import sniffio
import trio

IDLE_WORKERS = ("Trio thread ", "AnyIO worker thread", "asyncio_")
"""How threads are called that trio, anyio and asyncio keep for the next call; a call's own name follows trio's."""


def living_tasks() -> set[object]:
    """The tasks of the running event loop, all of them."""
    if sniffio.current_async_library() == "asyncio":
        return set(asyncio.all_tasks())
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found: set[object] = set()
    waiting = [root]
    while waiting:
        task = waiting.pop()
        found.add(task)
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
    return found


def living_threads() -> set[threading.Thread]:
    """The threads that do something of their own."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith(IDLE_WORKERS)}


def living_children() -> set[int]:
    """The process ids of this process's children."""
    try:  # which takes psutil a look at every process there is
        lists = [Path(f"/proc/self/task/{thread}/children") for thread in os.listdir("/proc/self/task")]
        return {int(pid) for children in lists for pid in children.read_text().split()}
    except OSError:
        return {child.pid for child in psutil.Process().children()}


def open_descriptors() -> dict[str, str]:
    """This process's file descriptors, and what each stands for."""
    found: dict[str, str] = {}
    for number in os.listdir("/dev/fd"):
        try:
            found[number] = os.readlink(f"/dev/fd/{number}")
        except OSError:  # the descriptor of the listing itself
            continue
    return found
