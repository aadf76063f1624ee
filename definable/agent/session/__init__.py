"""Conversations that last: the `SessionStore` protocol, its homes, and the service that alone calls them.

```
base.py      Session, and the protocols of a place that keeps sessions
memory.py    in this process
durable.py   what the stores beyond it share: messages and states as bytes, what need not be read again
sqlite.py    in a file (loads sqlite3 when first used)
redis.py     in Redis, shared by replicas (loads coredis when first used)
postgres.py  in PostgreSQL, shared by replicas (loads psycopg when first used)
service.py   the only caller of a store: a run's turn in its session, one load and one save each
locks.py     runs of one session one after the other
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .base import Session, SessionStore
    from .memory import MemorySessionStore
    from .postgres import PostgresSessionStore
    from .redis import RedisSessionStore
    from .sqlite import SQLiteSessionStore

__all__ = [
    "SessionStore",
    "Session",
    "MemorySessionStore",
    "SQLiteSessionStore",
    "RedisSessionStore",
    "PostgresSessionStore",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "SessionStore": ".base",
        "Session": ".base",
        "MemorySessionStore": ".memory",
        "SQLiteSessionStore": ".sqlite",
        "RedisSessionStore": ".redis",
        "PostgresSessionStore": ".postgres",
    },
)
