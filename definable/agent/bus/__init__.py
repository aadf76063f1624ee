"""Events accepted now and handled later: the `EventBus` protocol, one queue engine, and its stores.

```
base.py      the protocol: a bus, its deliveries, its dead letters
emitter.py   where `agent.emit` enters, from any thread
queue.py     the engine, written once: `QueueBus`, and one opening of it: drain, close
publisher.py where it accepts: capacity, dedupe keys
writes.py    what it writes: batches, flush, what becomes of those that fail
claims.py    what it has claimed: prefetch, leases, retry, dead letters
suspects.py  of it, what may be why the process ended: one at a time
store.py     what it asks of a store: write a batch, claim what is due
batch.py     what travels between them
memory.py    the store in this process
sqlite.py    the store in a file (loads sqlite3 when first used)
shared.py    what buses on a server have in common: arguments, values, leases, sweeps
redis.py     the store in Redis, shared by replicas (loads coredis when first used); redis.lua is its server's part
postgres.py  the store in PostgreSQL, shared by replicas (loads psycopg when first used)
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from definable.errors import EventBufferFull, EventBusClosed

    from .base import DeadLetter, Delivery, EventBus
    from .memory import MemoryBus
    from .postgres import PostgresBus
    from .redis import RedisBus
    from .sqlite import SQLiteBus

__all__ = [
    "EventBus",
    "Delivery",
    "DeadLetter",
    "MemoryBus",
    "SQLiteBus",
    "RedisBus",
    "PostgresBus",
    "EventBufferFull",
    "EventBusClosed",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "EventBus": ".base",
        "Delivery": ".base",
        "DeadLetter": ".base",
        "MemoryBus": ".memory",
        "SQLiteBus": ".sqlite",
        "RedisBus": ".redis",
        "PostgresBus": ".postgres",
        "EventBufferFull": "definable.errors",
        "EventBusClosed": "definable.errors",
    },
)
