"""Which file on disk a path names: notices that a file which is in use was deleted, moved, replaced or emptied.

An open file can be written after its name was taken from it, and what is written is lost when it is closed. POSIX names
a file by its device and inode number; so does Windows, where a file in use cannot be taken away in the first place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Inode: TypeAlias = tuple[int, int]
"""Device and inode number."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """An SQLite database that is open, and its write-ahead log.

    Args:
        path: The database, absolute.
        database: What the path named when it was opened.
        log: What the log's path named then; None when there was none.
    """

    path: str
    database: Inode
    log: Inode | None

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The file that is there now, of which a connection has been made.

        Raises:
            OSError: There is none.
        """
        name = os.fspath(path)
        return cls(name, _inode(os.stat(name)), _inode_of(log_of(name)))

    def damage(self) -> str | None:
        """What has happened to the file since, in words; None when it is the same."""
        try:
            now = os.stat(self.path)
        except OSError:
            return "it was deleted or moved"
        if _inode(now) != self.database:
            return "it was replaced by another file"
        if not now.st_size:
            return "it was emptied"
        if self.log is not None and _inode_of(log_of(self.path)) != self.log:
            return f"its log {os.path.basename(log_of(self.path))} was deleted or replaced"
        return None


def log_of(path: str) -> str:
    """Where SQLite keeps the log of a database (https://www.sqlite.org/wal.html)."""
    return f"{path}-wal"


def _inode_of(path: str) -> Inode | None:
    try:
        return _inode(os.stat(path))
    except OSError:
        return None


def _inode(stat: os.stat_result) -> Inode:
    return stat.st_dev, stat.st_ino
