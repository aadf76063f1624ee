"""A lock on a file that SQLite has open, by another descriptor, which must not be closed while SQLite uses the file.

POSIX drops all `fcntl` locks that a process has on a file as soon as it closes any descriptor of it
(https://www.sqlite.org/howtocorrupt.html, section 2.2), and SQLite's are such locks. So `SQLiteFile` notes here which
files it has open, and a lock's descriptor is closed with the last of them.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

from .file_identity import Inode

try:
    import fcntl
except ImportError:  # Windows, where a file in use cannot be deleted: a lock beside it will do
    fcntl = None

_guard = threading.Lock()
_connections: Counter[Inode] = Counter()
"""How many connections of this process are open to a file."""
_unclosed: dict[Inode, list[int]] = {}
"""Descriptors that wait for the last of them to end."""


def connected(file: Inode) -> None:
    """SQLite has opened the file."""
    with _guard:
        _connections[file] += 1


def disconnected(file: Inode) -> None:
    """SQLite has closed the file."""
    with _guard:
        _connections[file] -= 1
        if _connections[file] > 0:
            return
        del _connections[file]
        for descriptor in _unclosed.pop(file, ()):
            os.close(descriptor)


class FileLock:
    """An exclusive lock on a file, which the operating system ends with its process.

    Args:
        path: The file, which SQLite has open.

    Raises:
        BlockingIOError: Somebody else holds it, in this process or in another.
        OSError: The file cannot be locked.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = None if fcntl is None else os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if fcntl is None or self._descriptor is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of it."""
        descriptor, self._descriptor = self._descriptor, None
        if fcntl is None or descriptor is None:
            return
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        stat = os.fstat(descriptor)
        with _guard:
            file = (stat.st_dev, stat.st_ino)
            if file in _connections:
                _unclosed.setdefault(file, []).append(descriptor)
            else:
                os.close(descriptor)
