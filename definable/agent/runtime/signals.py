"""How a process that serves ends: signals, a hard exit where a stop is stuck, and a watchdog of the event loop.

`entry.py` opens the `SignalWatcher` and the `ExitGuard`, `runtime.py` the `Watchdog`. Signal handlers are Python's own
(`signal.signal`) and not the event loop's, and the watchdog is a thread, so that they work also while the loop is
blocked. Python waits at exit for every thread that is no daemon: the guard ends those that user code has started.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from math import inf
from types import FrameType, TracebackType
from typing import Any

from definable.concurrency.event_loop import EventLoopHandle
from definable.concurrency.logs import logger_named

logger: logging.Logger = logger_named("definable")


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
        watcher = threading.Thread(target=self._exit_after, args=(threads, seconds, status), daemon=True)
        try:
            watcher.start()
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


INTERVAL = 5.0
"""Seconds between two questions."""

PATIENCE = 5.0
"""Seconds in which the loop must answer."""


class Watchdog:
    """Watches an event loop while the context is open, which is entered and left in the loop's own thread.

    Args:
        loop: The loop.
        interval: Seconds between two questions.
        patience: Seconds in which the loop must answer.
    """

    def __init__(self, loop: EventLoopHandle, interval: float = INTERVAL, patience: float = PATIENCE) -> None:
        self._loop = loop
        self._interval = interval
        self._patience = patience
        self._stopped = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="definable watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._answered.set()  # the loop, which waits here, will not
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            answered = self._answered = threading.Event()
            if self._stopped.is_set() or not self._loop.call_soon(answered.set):
                return
            asked = time.monotonic()
            if not answered.wait(self._patience):
                logger.error(
                    "the event loop has been stuck for %g s, here:\n%s", self._patience, stack_of(self._loop.thread_id)
                )
                answered.wait()
                logger.warning("the event loop goes on, after %.1f s", time.monotonic() - asked)


def stack_of(thread_id: int) -> str:
    """Where a thread is now, the innermost call last."""
    frame = sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage] - the documented way
    return "(the thread has ended)" if frame is None else "".join(traceback.format_stack(frame)).rstrip()


HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""The terminal is gone, or an operator asks for a reload; None where there is no such signal."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM) if HANGUP is None else (signal.SIGINT, signal.SIGTERM, HANGUP)

REPEATED_HANGUP = 0.2
"""Seconds within which a SIGHUP says nothing new: a terminal that closes sends it by its shell and by the kernel, and
systemd sends one right after SIGTERM where `SendSIGHUP=yes`."""

STUCK_MARGIN = 5.0
"""Seconds beyond the shutdown timeout after which a process that owns itself exits hard."""


class SignalWatcher:
    """Turns signals into a stop, as long as the context is open; the host's own handlers are put back after it.

    Does nothing outside of the main thread, where Python delivers no signals. Of several that are open in one process,
    say of two agents that are served side by side, each hears every signal, and they close in any order. A fork of the
    process, say a worker of `multiprocessing`, inherits the handlers, and does at a signal what the host's would.

    SIGHUP is taken where nobody has decided on it: under `nohup` it stays ignored, and a host's own handler stays.

    Args:
        stop: Begins a stop; called with True to cut off what is under way. Must be safe to call from a signal handler.
        exit_after: Seconds from the first signal after which the process exits hard; None when it is not ours to end.
        hung_up: Called at SIGHUP, in place of a stop.
    """

    def __init__(
        self, stop: Callable[[bool], object], exit_after: float | None, *, hung_up: Callable[[], object] | None = None
    ) -> None:
        self._stop = stop
        self._exit_after = exit_after
        self._hung_up = hung_up
        self._last_at = -inf
        """When the last signal came, in seconds of the monotonic clock."""
        self._previous: dict[int, Any] = {}
        self._deadline: threading.Timer | None = None
        self._process = 0
        """The id of the process whose signals these are."""
        self.received: list[int] = []
        """The signals so far."""

    def __enter__(self) -> SignalWatcher:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            free = [number for number in STOP_SIGNALS if is_free(number)]
            self._previous = {number: signal.signal(number, self._on_signal) for number in free}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            above = self._above(number)
            if above is None:
                signal.signal(number, self._hosts(number))
            else:
                above._previous[number] = handler

    @property
    def exit_status(self) -> int:
        """0 after one signal or none: a drain; 128 and the signal's number when a further one cut it off."""
        return 128 + self.received[-1] if len(self.received) > 1 else 0

    @property
    def hard_exit_status(self) -> int:
        """Of a process that does not end by itself: 128 and the signal's number, 1 where there was none."""
        return 128 + self.received[-1] if self.received else 1

    def expect_end(self, seconds: float) -> None:
        """The process should end by itself before long: exit hard where it does not, unless that is due already."""
        if self._deadline is None and self._exit_after is not None:
            self._arm(seconds)

    def disarm(self) -> None:
        """The process will end by itself: no hard exit."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._process != os.getpid():
            signal.signal(number, self._hosts(number))
            signal.raise_signal(number)
            return
        below = watcher_of(self._previous.get(number))
        if below is not None and below._process == self._process:
            below._on_signal(number, frame)
        if number == HANGUP and self._hung_up is not None:
            self._hung_up()
            return
        now, before = time.monotonic(), self._last_at
        self._last_at = now
        if number == HANGUP and now - before < REPEATED_HANGUP:
            return
        self.received.append(number)
        count = len(self.received)
        if count >= 3:
            os._exit(128 + number)
        self._stop(count > 1)
        if count == 1 and self._exit_after is not None:
            self._arm(self._exit_after)

    def _arm(self, seconds: float) -> None:
        deadline = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._exit_stuck)
        deadline.daemon = True
        try:
            deadline.start()
        except RuntimeError:  # no thread is to be had: what matters is the stop, which has begun
            return
        self._deadline = deadline

    def _hosts(self, number: int) -> Any:
        """The handler that was there before."""
        handler = self._previous[number]
        return signal.SIG_DFL if handler is None else handler

    def _above(self, number: int) -> SignalWatcher | None:
        """The watcher that was opened after this one and is open still: it hands on what it hears."""
        above, watcher = None, watcher_of(signal.getsignal(number))
        while watcher is not None and watcher is not self:
            above, watcher = watcher, watcher_of(watcher._previous.get(number))
        return above if watcher is self else None

    def _exit_stuck(self) -> None:
        main = threading.main_thread()
        threads = [each for each in threading.enumerate() if not each.daemon and each is not main]
        logger.critical("the stop is stuck beyond its bound: exiting now (%s)", names_of(threads) or "the event loop")
        os._exit(self.hard_exit_status)


def is_free(number: int) -> bool:
    """Whether a signal may be taken: SIGHUP only where nothing but its default, or a watcher, has it."""
    handler = signal.getsignal(number)
    return number != HANGUP or handler is signal.SIG_DFL or watcher_of(handler) is not None


def watcher_of(handler: Any) -> SignalWatcher | None:
    """The watcher that a signal's handler belongs to; None when it is the host's."""
    watcher = getattr(handler, "__self__", None)
    return watcher if isinstance(watcher, SignalWatcher) else None
