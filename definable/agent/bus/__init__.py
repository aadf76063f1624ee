"""Events accepted now and handled later: the `EventBus` protocol, one queue engine, and its stores.

```
base.py      the protocol: a bus, its deliveries, its dead letters
emitter.py   where `agent.emit` enters, from any thread
store.py     what the engine asks of a store: write a batch, claim what is due
queue.py     the engine, written once: batches, prefetch, retry, dedupe, leases, drain, close
queue_bus.py the bus that an engine and a store make
memory.py    the store in this process
sqlite.py    the store in a file (loads sqlite3 when first used)
redis.py     the store in Redis, shared by replicas (loads coredis when first used); redis.lua is its server's part
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from definable.errors import EventBufferFull, EventBusClosed

    from .base import DeadLetter, Delivery, EventBus
    from .memory import MemoryBus
    from .redis import RedisBus
    from .sqlite import SQLiteBus

__all__ = [
    "EventBus",
    "Delivery",
    "DeadLetter",
    "MemoryBus",
    "SQLiteBus",
    "RedisBus",
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
        "EventBufferFull": "definable.errors",
        "EventBusClosed": "definable.errors",
    },
)
