"""How often Python looks for reference cycles while we serve in a process of our own. `entry.py` opens it.

By default it looks after 700 new objects, and through everything that lives after a few thousand runs' worth: with
thousands of kept sessions that was a third of the processor's time. What is out of use is freed at once all the same,
unless it is part of a cycle.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

THRESHOLDS = (10_000, 20, 50)
"""New objects before the youngest are looked through, and how often that happens before the older ones are too."""


_lock = threading.Lock()
_before: list[tuple[int, int, int]] = []
"""The process's thresholds at each opening: several threads may serve at once, and end in any order."""


@contextmanager
def rare_collection() -> Generator[None]:
    """Looks for cycles less often while the context is open; what the user set higher, or switched off, stays."""
    with _lock:
        before = gc.get_threshold()
        _before.append(before)
        if before[0]:
            gc.set_threshold(*map(max, before, THRESHOLDS))
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:  # the last to end puts back what the first has found
                gc.set_threshold(*before)
