"""Loggers whose handlers, filters and record factory, which are the user's, fail nothing but the line that is written.

The standard library's handlers report their own failures; others raise them, out of every log call. A worker, a
supervisor or the event loop itself would end by the attempt to say that something else had failed.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

OF_EVENT_LOOPS = ("asyncio", "concurrent.futures", "trio.async_generator_errors")
"""Loggers of others that are called where nobody could catch what a handler raises."""


class _Contained(logging.Logger):
    """Mixed into the class that the program has chosen for its loggers."""

    def _log(self, *args: Any, stacklevel: int = 1, **details: Any) -> None:
        try:
            super()._log(*args, stacklevel=stacklevel + 1, **details)  # this frame is not the caller
        except KeyboardInterrupt:
            raise
        except BaseException:
            _report()


def logger_named(name: str) -> logging.Logger:
    """The logger of that name, of which no call raises what a handler does."""
    logger = logging.getLogger(name)
    if not isinstance(logger, _Contained):
        kind = type(logger)
        logger.__class__ = type(kind.__name__, (_Contained, kind), {})
    return logger


def _report() -> None:
    """Write the failure where `logging.Handler.handleError` does."""
    if not logging.raiseExceptions:
        return
    try:
        sys.stderr.write(f"--- Logging error: a line is lost ---\n{traceback.format_exc()}")
    except Exception:  # there is nobody left to tell
        return
