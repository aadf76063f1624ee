"""Conversations that last: the `SessionStore` protocol and its homes.

```
base.py      Session, and the protocol of a place that keeps sessions
memory.py    in this process
sqlite.py    in a file (loads sqlite3 when first used)
redis.py     in Redis, shared by replicas (loads coredis when first used)
base.py     messages and states as bytes, for the stores beyond memory
service.py   the only caller of a store: a run's turn in its session, one load and one save each
locks.py     runs of one session one after the other
history.py     what becomes of two runs that replicas made in one session at once
history.py   how much of a conversation is kept and sent
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .base import Session, SessionStore
    from .memory import MemorySessionStore
    from .redis import RedisSessionStore
    from .sqlite import SQLiteSessionStore

__all__ = ["SessionStore", "Session", "MemorySessionStore", "SQLiteSessionStore", "RedisSessionStore"]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "SessionStore": ".base",
        "Session": ".base",
        "MemorySessionStore": ".memory",
        "SQLiteSessionStore": ".sqlite",
        "RedisSessionStore": ".redis",
    },
)
