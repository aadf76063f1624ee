"""Logs of a process that `serve` owns: visible without any set-up. A library's host configures its own logging."""

from __future__ import annotations

import logging

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def ensure_visible() -> None:
    """Give `definable`'s records a handler on standard error, unless the program has configured logging."""
    logger = logging.getLogger("definable")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LINE, datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
