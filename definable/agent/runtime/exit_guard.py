"""Sees to it that a process which has served ends: a thread that user code has started must not hold it up for ever.

Python waits at exit for every thread that is no daemon. What the program itself does after `serve()`, and threads that
it had before, are left alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable

logger: logging.Logger = logging.getLogger("definable")


CHECK_INTERVAL = 0.5
"""Seconds between two looks, while such a thread runs, at whether the program has ended."""


class ExitGuard:
    """Made before serving begins; `watch` is called once it has ended."""

    def __init__(self) -> None:
        self._before = frozenset(threading.enumerate())

    def watch(self, seconds: float, status: int) -> None:
        """Exit hard, if the threads that were started while the agent served hold up the process.

        Args:
            seconds: How long they have, once the program has come to its end.
            status: The exit status then.
        """
        threads = [thread for thread in threading.enumerate() if not thread.daemon and thread not in self._before]
        if not threads:
            return
        guard = threading.Thread(target=self._exit_after, args=(threads, seconds, status), daemon=True)
        try:
            guard.start()
        except RuntimeError:  # no thread is to be had
            return

    def _exit_after(self, threads: list[threading.Thread], seconds: float, status: int) -> None:
        main = threading.main_thread()  # it counts as ended once Python waits for the others
        for thread in threads:
            while thread.is_alive() and main.is_alive():  # nothing waits for the first of two threads to end
                thread.join(CHECK_INTERVAL)
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        left = [thread for thread in threads if thread.is_alive()]
        others = [each for each in threading.enumerate() if not each.daemon and each not in left and each.is_alive()]
        if left and not others:
            logger.critical(
                "the program has ended, and threads that user code has started while the agent served hold up the "
                "process: %s; exiting now (start them with daemon=True, or end them in Agent(lifespan=...))",
                names_of(left),
            )
            os._exit(status)


def names_of(threads: Iterable[threading.Thread]) -> str:
    """Threads in words, for a log."""
    return ", ".join(f"thread {thread.name!r}" for thread in threads)
