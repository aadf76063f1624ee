"""A handler that forks: its child ends with the call, and is no second server.

The child of `os.fork` in a handler has a copy of the event loop, with all that it serves. `sys.exit` there is caught
where user code is kept apart, and a return goes on where the parent does. So the child is ended where the call ends.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn


def end_child(error: BaseException | None) -> NoReturn:
    """End a process that was forked within a call of user code, as the interpreter would.

    Args:
        error: What ended the call; None: it returned.
    """
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or there is none
            continue
    os._exit(status & 0xFF)
